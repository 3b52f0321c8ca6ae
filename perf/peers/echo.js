// A worker and a Durable Object of it that answer their input: the no-op of plot `peers`.
//
// The object keeps nothing on disk (`durableObjectStorage` of echo.capnp), so a call costs no storage.
import { DurableObject } from "cloudflare:workers";

export class Echo extends DurableObject {
  async fetch(request) {
    return new Response(await request.arrayBuffer());
  }

  echo(payload) {
    return payload;
  }
}

// `calls` calls of the object, one after another, each with another payload whose ends are checked in the answer.
// The clock of a worker stands still while it computes, so whoever asks takes the time.
async function callAgainAndAgain(object, calls, bytes) {
  const payload = new Uint8Array(bytes);
  for (let call = 0; call < calls; call++) {
    payload.fill(call & 255);
    const answer = await object.echo(payload);
    if (answer.length !== bytes || answer[0] !== payload[0] || answer[bytes - 1] !== payload[bytes - 1]) {
      return new Response(`call ${call} was answered with something else`, { status: 500 });
    }
  }
  return new Response(`${calls}`);
}

export default {
  async fetch(request, env) {
    const { pathname, searchParams } = new URL(request.url);
    if (pathname === "/stateless") {
      return new Response(await request.arrayBuffer());
    }
    const object = env.ECHO.get(env.ECHO.idFromName("the one"));
    switch (pathname) {
      case "/object":
        return object.fetch(request);
      case "/calls":
        return callAgainAndAgain(object, Number(searchParams.get("calls")), Number(searchParams.get("bytes")));
      default:
        return new Response(`there is no ${pathname}`, { status: 404 });
    }
  },
};
