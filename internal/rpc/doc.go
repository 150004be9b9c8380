// Package rpc is what stands between the port and the handlers: one stack, in one order, for unary calls and streams,
// for gRPC, gRPC-Web, Connect and REST.
//
// Two layers share the work. Handler wraps the whole mux, so that a request which never reaches an RPC (an unknown path, a
// wrong method, a body that does not parse) is treated like one that does; Options is the interceptor around each RPC.
//
//	recover → request id and trace → log line → error shape → deadline        (Handler, around every request)
//	recover → error mapping → authentication and tenant → limits → validation (Options, around every RPC)
//
// Recover stands in both layers: inside an RPC a panic must end in the protocol that the client speaks.
package rpc
