"""A proxy between Airflow and the container engine's socket, which gives root rights; `policy.py` decides.

A connection has one request. Later bytes of the client are read and dropped, so nothing can be smuggled. When the
client closes the connection, the connection to the engine is closed, and the reverse. Answers and streams pass
unchanged, without a time limit.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from http import HTTPStatus

import h11

from .check import SOCKET, UNAVAILABLE
from .policy import RefusedError, Request, allowed, id_of_ours

ENGINE = "/var/run/docker.sock"
HEAD_BYTES = 64 * 1024
BODY_BYTES = 512 * 1024  # an argument has at most 128 KiB, and half as much again as JSON
CONNECTIONS = 128  # at a time, each with at most some 700 KB; a running stage has one or two, others wait
REQUEST_S = 10  # for a client to send its request
INSPECT_S = 60  # for the engine to describe a container; requests of a stage may take hours
CLOSE_S = 10  # for a client to read the end of its answer
DRAIN_S = 1  # for a refused client to stop sending, or the end of its connection overtakes the answer
CHUNK = 64 * 1024

log = logging.getLogger("engine proxy")


class AnswerError(Exception):
    """The request ends with this status and text, in the form of the engine's errors."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class EngineGoneError(AnswerError):
    """The engine of this socket has ended."""


async def read_request(reader: asyncio.StreamReader) -> tuple[str, str, bytes]:
    """Method, target and body of the request of a connection.

    Raises:
        AnswerError: it is not HTTP, or too large.
        RefusedError: its body comes in chunks.
        EOFError: the client sent none.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
    request, body = None, bytearray()
    try:
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(CHUNK)
                if not data and request is None:
                    raise EOFError
                parser.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
                headers = dict(event.headers)
                if b"transfer-encoding" in headers:
                    raise RefusedError("a body in chunks is not allowed: its length must be known")
                if int(headers.get(b"content-length", b"0")) > BODY_BYTES:
                    raise AnswerError(413, f"the body is larger than {BODY_BYTES} bytes")
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and request:
                return request.method.decode(), request.target.decode(), bytes(body)
            else:
                raise EOFError
    except h11.RemoteProtocolError as error:
        raise AnswerError(error.error_status_hint, f"the proxy cannot read this as HTTP: {error}") from None


async def ask(method: str, target: str, body: bytes, attach: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the engine, with the request sent.

    Raises:
        AnswerError: the engine cannot be reached.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(ENGINE, limit=CHUNK)
    except OSError as error:
        kind = EngineGoneError if isinstance(error, ConnectionRefusedError) else AnswerError
        raise kind(502, f"no engine answers at {ENGINE}: {error.strerror}") from None
    lines = [f"{method} {target} HTTP/1.1", "Host: docker", f"Content-Length: {len(body)}"]
    lines += ["Content-Type: application/json"] if body else []
    lines += ["Connection: Upgrade, close", "Upgrade: tcp"] if attach else ["Connection: close"]
    writer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode() + body)
    return reader, writer


async def inspect(request: Request) -> tuple[int, bytes]:
    """Status and body of the engine's description of the request's container."""
    version = request.start.removesuffix("/containers/")
    reader, writer = await ask("GET", f"{version}/containers/{request.container}/json", b"", attach=False)
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "docker")]))
    parser.send(h11.EndOfMessage())
    status, body = 502, bytearray()
    try:
        async with asyncio.timeout(INSPECT_S):
            while not isinstance(event := parser.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    parser.receive_data(await reader.read(CHUNK))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += event.data
    except (h11.RemoteProtocolError, TimeoutError, OSError) as error:
        raise AnswerError(502, f"the engine did not describe container {request.container}: {error}") from None
    finally:
        writer.close()
    return status, bytes(body)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on everything until the end, no faster than it is read."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()


async def drop(reader: asyncio.StreamReader) -> None:
    """Read until the end, and drop it."""
    while await reader.read(CHUNK):
        pass


async def first_of(*works: asyncio.Task[None]) -> None:
    """Wait until one task has ended, and end the others."""
    try:
        await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)


async def accept(listening: socket.socket, end: asyncio.Future[None]) -> None:
    """Accept connections for ever, `CONNECTIONS` at a time: later ones wait unaccepted, without memory."""
    free = asyncio.Semaphore(CONNECTIONS)
    served = set()
    while True:
        await free.acquire()
        connection, _ = await asyncio.get_running_loop().sock_accept(listening)
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=CHUNK)
        task = asyncio.create_task(serve(end, reader, writer))
        served.add(task)
        task.add_done_callback(served.discard)
        task.add_done_callback(lambda _: free.release())


async def serve(end: asyncio.Future[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve a connection of a client, which may end at any time.

    An engine that has restarted has made a new socket, but the old one stays mounted here. So the proxy ends, and
    Compose starts it again with the new socket.
    """
    try:
        await handle(reader, writer)
    except EngineGoneError as error:
        if not end.done():
            end.set_exception(error)
    except (OSError, EOFError):
        pass
    except Exception:
        log.exception("a defect")
    finally:
        await close(writer)


async def close(writer: asyncio.StreamWriter) -> None:
    """End a connection: bytes that the client does not read in time are dropped."""
    writer.close()
    try:
        async with asyncio.timeout(CLOSE_S):
            await writer.wait_closed()
    except OSError:  # a timeout, too
        writer.transport.abort()


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read the request, and pass it on or answer with the reason of a refusal."""
    try:
        try:
            async with asyncio.timeout(REQUEST_S):
                method, target, body = await read_request(reader)
        except TimeoutError:
            raise AnswerError(408, f"no whole request within {REQUEST_S} s") from None
        request = allowed(method, target, body)
        container = request.container
        if container:
            status, found = await inspect(request)
            if status != HTTPStatus.OK:  # there is no such container; pass on the engine's message
                await answer(reader, writer, status, found)
                return
            container = id_of_ours(found)
        asked = request.start + container + request.end
        from_engine, to_engine = await ask(request.method, asked, request.body, request.attach)
    except (RefusedError, AnswerError) as error:
        status = error.status if isinstance(error, AnswerError) else 403
        log.warning("%d %s", status, error)
        await answer(reader, writer, status, json.dumps({"message": f"engine proxy: {error}"}).encode() + b"\n")
        if isinstance(error, EngineGoneError):
            raise
        return
    if request.method in {"POST", "DELETE"}:
        log.info("%s %s", request.method, asked)
    try:
        await first_of(
            asyncio.create_task(copy(from_engine, writer)),
            asyncio.create_task(drop(reader)),
        )
    finally:
        to_engine.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    """Answer with JSON, and wait until the client has read it."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", "Connection: close"]
    writer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode() + body)
    await writer.drain()
    writer.write_eof()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            await drop(reader)


async def run() -> None:
    """Serve until SIGTERM.

    Raises:
        AnswerError: the engine cannot be reached, or is gone.
        OSError: the socket cannot be made.
    """
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.cancel)
    _, writer = await ask("GET", "/_ping", b"", attach=False)
    writer.close()
    if SOCKET.is_socket():
        SOCKET.unlink()  # left by a killed proxy
    os.umask(0o117)  # only for owner and group
    with socket.socket(socket.AF_UNIX) as listening:
        listening.setblocking(False)
        listening.bind(str(SOCKET))
        listening.listen(CONNECTIONS)
        log.info("listening on %s", SOCKET)
        accepting = asyncio.create_task(accept(listening, end))
        with contextlib.suppress(asyncio.CancelledError):
            await end
        accepting.cancel()


def main() -> int:
    """The command line; returns the exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    try:
        asyncio.run(run())
    except AnswerError as error:
        log.error("%s: start it, or mount its socket there, for a user who may write to it", error)  # noqa: TRY400
    except OSError as error:
        log.error("%s cannot be made: %s: let uid %d write to its folder", SOCKET, error.strerror, os.getuid())  # noqa: TRY400
    else:
        return 0
    return UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
