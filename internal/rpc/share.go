package rpc

import (
	"net/netip"

	"plinth/internal/share"
)

// shareTimes is how many times as much as stays free a tenant may have of calls and streams: alone, three quarters of them.
const shareTimes = 3

// newShares returns a pool of things that are counted. It returns nil, which is no limit, for a capacity of 0.
func newShares(capacity int) *share.Pool {
	if capacity <= 0 {
		return nil
	}
	return share.New(share.Config{Capacity: func() int64 { return int64(capacity) }, Times: shareTimes, Small: 1})
}

// owner returns for whom a call counts: a tenant, or an address where no tenant is known. The address is that of the
// connection: behind a proxy it is the proxy's, since anyone can send a header that names another.
func (c *call) owner() string {
	if c.principal != nil {
		return c.principal.Tenant.Name
	}
	if c.request == nil {
		return share.Nobody
	}
	return "@" + network(c.request.RemoteAddr) // No tenant is named like that.
}

// sharer is the owner of what tenants share. Without authentication there is one tenant, who may have all.
func (s *Stack) sharer(c *call) string {
	if s.Authenticate == nil {
		return share.Nobody
	}
	return c.owner()
}

// network returns whose address it is: the address itself, or the first 64 bits of an IPv6 address, all of which one client
// has.
func network(remote string) string {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	ip := a.Addr().Unmap()
	if ip.Is6() {
		prefix, _ := ip.WithZone("").Prefix(64)
		return prefix.String()
	}
	return ip.String()
}
