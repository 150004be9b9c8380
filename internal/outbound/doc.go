// Package outbound is the one HTTP client for calls to addresses that clients of the service name, such as webhooks.
//
// # Addresses
//
// Whoever names a URL must not reach what only the service can: every address is checked when it is connected to, after the name was
// resolved, so that a name that resolves to another address at each question (DNS rebinding) gains nothing. Only public unicast
// addresses are allowed, and those of Config.Allowed. Loopback, private, link-local (with the metadata services of clouds), shared,
// multicast, unspecified, reserved and documentation addresses are refused, and so are the forms of IPv6 that carry an IPv4
// address: mapped, compatible, 6to4, NAT64 and Teredo. A name with some addresses that are allowed is connected to at those.
//
// With a proxy, names are resolved by the proxy, and connected to from where it stands: it has to check addresses. The client then
// refuses only URLs that name a refused address themselves, and connects to nothing but the proxy.
//
// # Calls
//
// A call has limits: for its time, for the request, and for the headers and the body of the reply. Redirects are followed of GET and
// HEAD alone, where the request says so, and each of them is checked as the first URL was. Compressed replies are not unpacked.
// Statuses are left to the caller.
//
// # Failures
//
// A call is retried where the request says so, up to a tenth of all calls at a time. Each tenant has a circuit breaker for each host:
// where half of ten or more calls within half a minute fail (no reply, 502, 503 or 504), calls fail at once for ten seconds, and then one
// finds out. The errors of Do:
//
//	PermissionDenied, reason ADDRESS_REFUSED   the address is not allowed; retrying does not help
//	InvalidArgument                            the request is too large, or a redirect leads to a URL that is not allowed
//	Unavailable, reason BREAKER_OPEN           with the time after which to try again
//	Unavailable                                no such host, no connection, no TLS, the connection broke
//	DeadlineExceeded                           no reply in time
//	Canceled                                   the context ended
//
// Errors name the host, and never the path, the query, headers or bodies, which may hold secrets.
package outbound
