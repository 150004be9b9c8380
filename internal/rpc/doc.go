// Package rpc is the stack between the port and the handlers: the same one, in one order, for unary calls and streams, for gRPC,
// gRPC-Web, Connect and REST. It also has what RPC handlers share: errors of parts, validation of parts, the end of streams, and
// conversions to and from protos.
//
// Two layers share the work. Stack.Handler is around the whole mux, so that a request which never reaches an RPC (an unknown
// path, a wrong method, a body that does not parse) is treated like one that does. Stack.Options is around each RPC. A request
// passes, from the outside in,
//
//	request id → log line → error shape → recover → trace → deadline → browsers → who calls          (Handler)
//	recover and error mapping → scope → rate limits → validation → concurrency                       (Options, unary calls)
//	recover and error mapping → scope → rate limits → number of streams → credential → validation    (Options, streams)
//
// Recover is in both layers: inside an RPC a panic must end in the protocol that the client speaks. A stream's credential is
// looked at again while the stream is open, and each of its messages is validated as it comes in.
package rpc
