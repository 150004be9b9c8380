// Package rpc is the stack between the port and the handlers. It is the same, in the same order, for unary calls and
// streams, and for gRPC, gRPC-Web, Connect, REST and plain routes. The package also has what RPC handlers share: errors of
// parts, validation of parts, the end of streams, and conversions to and from protos.
//
// Stack.Handler makes the handler of the port. It has one table of everything that is served, so that what a request is for is
// known first, and who may do it is decided before any of the body is read. From the outside in, a request passes
//
//	request id → log line → error shape → recover → trace → table → deadline → browsers →
//	authentication → scope → rate limits → memory                                              before the body
//	recover and error mapping → message → validation → concurrency                             each unary RPC
//	recover and error mapping → number of streams → life → messages and their validation       each stream
//
// Both layers recover from panics: inside an RPC a panic must end in the protocol that the client speaks. A stream ends when it is
// silent, too old or no longer permitted (streams.go), and each of its messages is validated when it is received. Memory, calls
// at a time and streams are shared by tenant (docs/adr/0037).
//
// A message is counted before it is built (package wire). A REST route calls the RPC's own handler; the interceptor makes its
// message out of path, query and body (package rest), so that the layers are the same. A plain route (Route) is for what no proto
// can describe: uploads, downloads, ranges.
package rpc
