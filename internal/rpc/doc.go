// Package rpc is the stack between the port and the handlers. It is the same, in the same order, for unary calls and
// streams, and for gRPC, gRPC-Web, Connect and REST. The package also has what RPC handlers share: errors of parts,
// validation of parts, the end of streams, and conversions to and from protos.
//
// The stack has two layers. Stack.Handler wraps the whole mux, so that a request which never reaches an RPC (an unknown
// path, a wrong method, a body that does not parse) is treated like one that does. Stack.Options wraps each RPC. From the
// outside in, a request passes
//
//	request id → log line → error shape → recover → trace → deadline → browsers → authentication     (Handler)
//	recover and error mapping → scope → rate limits → validation → concurrency                       (Options, unary calls)
//	recover and error mapping → scope → rate limits → number of streams → credential → validation    (Options, streams)
//
// Both layers recover from panics: inside an RPC a panic must end in the protocol that the client speaks. A stream's
// credential is checked again while the stream is open, and each of its messages is validated when it is received.
package rpc
