"use strict";
// The API, drawn from openapi.json.

function table(columns, rows) {
  const scroll = make("div", "scroll"), drawn = make("table"), head = make("tr");
  head.append(...columns.map(name => make("th", "", name)));
  drawn.append(head);
  for (const cells of rows) {
    const row = make("tr");
    row.append(...cells.map(text => make("td", "", text)));
    drawn.append(row);
  }
  scroll.append(drawn);
  return scroll;
}

function named(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(named).join(" or ");
  if (schema.type === "array") return `list of ${named(schema.items)}`;
  if (schema.additionalProperties) return `name: ${named(schema.additionalProperties)}`;
  return schema.format || schema.type || "any";
}

function drawSchema(name, schema) {
  const rows = Object.entries(schema.properties || {}).map(([key, value]) => [key, named(value), value.description || ""]);
  const drawn = make("section");
  drawn.append(make("h3", "", name), make("p", "sub", schema.description || ""), table(["Key", "Value", ""], rows));
  return drawn;
}

function drawOperation(path, method, operation) {
  const box = make("section", "box"), title = make("h3");
  title.append(make("span", "method", method.toUpperCase()), ` ${path}`);
  box.append(title, make("p", "", operation.description || operation.summary));
  const given = (operation.parameters || []).map(given => [given.name, given.in, named(given.schema), given.description || ""]);
  if (given.length) box.append(table(["Parameter", "In", "Value", ""], given));
  const bodies = Object.entries(operation.requestBody?.content || {}).map(([kind, body]) => [kind, named(body.schema)]);
  if (bodies.length) box.append(table(["Body", "Value"], bodies));
  const answers = Object.entries(operation.responses).map(([status, answer]) => {
    return [status, answer.description, named(answer.content?.["application/json"]?.schema)];
  });
  box.append(table(["Status", "", "Answer"], answers));
  return box;
}

element("example").textContent =
  `curl -H "Authorization: Bearer $SERVE_TOKEN" -F files=@face.png ${new URL("predict", location)}`;

ask("openapi.json").then(api => {
  const drawn = Object.entries(api.paths).flatMap(([path, operations]) => {
    return Object.entries(operations).map(([method, operation]) => drawOperation(path, method, operation));
  });
  const forms = Object.entries(api.components?.schemas || {}).map(([name, schema]) => drawSchema(name, schema));
  element("paths").append(make("h2", "", "Paths"), ...drawn, make("h2", "", "Forms"), ...forms);
}).catch(error => showProblem(error.message));
