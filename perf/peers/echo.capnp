# workerd with one worker on a Unix socket, which is given on the command line (`--socket-addr http=unix:PATH`).
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [ (name = "echo", worker = .echo) ],
  sockets = [ (name = "http", http = (), service = "echo") ],
);

const echo :Workerd.Worker = (
  modules = [ (name = "echo.js", esModule = embed "echo.js") ],
  compatibilityDate = "2026-11-01",
  durableObjectNamespaces = [ (className = "Echo", uniqueKey = "praas-perf-echo") ],
  durableObjectStorage = (inMemory = void),
  bindings = [ (name = "ECHO", durableObjectNamespace = "Echo") ],
);
