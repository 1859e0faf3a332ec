// Browsers start no Worker from a file. In a site that is opened as one, the search runs in a frame instead.
// It is called so that the plugin `offline` of MkDocs Material does not load one from the network.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(script) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      // What a worker says, and what it is told, are events of its own scope.
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.ready = new Promise((loaded) => {
        const node = inside.document.createElement("script");
        node.src = script;
        node.onload = loaded;
        inside.document.head.append(node);
      });
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
