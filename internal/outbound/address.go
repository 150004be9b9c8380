package outbound

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"unicode"

	"golang.org/x/net/idna"
)

// refusal is why an address must not be connected to.
type refusal struct {
	addr netip.Addr
	kind string
}

func (r *refusal) Error() string { return fmt.Sprintf("%s is %s", r.addr, r.kind) }

// refused are the networks that are not public, by IANA's registries of special-purpose addresses, and those that lead to what a
// cloud provides to its machines. The first that contains an address names its kind.
var refused = []struct {
	network netip.Prefix
	kind    string
}{
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address"},
	{netip.MustParsePrefix("10.0.0.0/8"), "a private address"},
	{netip.MustParsePrefix("172.16.0.0/12"), "a private address"},
	{netip.MustParsePrefix("192.168.0.0/16"), "a private address"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address"}, // with the metadata service
	{netip.MustParsePrefix("168.63.129.16/32"), "a metadata address"}, // of Azure
	{netip.MustParsePrefix("100.64.0.0/10"), "a shared address"},      // behind carrier-grade NAT
	{netip.MustParsePrefix("0.0.0.0/8"), "an unspecified address"},
	{netip.MustParsePrefix("192.0.0.0/24"), "a reserved address"},
	{netip.MustParsePrefix("192.88.99.0/24"), "a reserved address"}, // relays of 6to4
	{netip.MustParsePrefix("192.0.2.0/24"), "a documentation address"},
	{netip.MustParsePrefix("198.51.100.0/24"), "a documentation address"},
	{netip.MustParsePrefix("203.0.113.0/24"), "a documentation address"},
	{netip.MustParsePrefix("198.18.0.0/15"), "a benchmarking address"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved address"}, // with the broadcast address

	{netip.MustParsePrefix("::1/128"), "a loopback address"},
	{netip.MustParsePrefix("::/128"), "an unspecified address"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "a mapped IPv4 address"},
	{netip.MustParsePrefix("::/96"), "a compatible IPv4 address"},
	{netip.MustParsePrefix("64:ff9b::/96"), "a NAT64 address"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a NAT64 address"},
	{netip.MustParsePrefix("2002::/16"), "a 6to4 address"},
	{netip.MustParsePrefix("2001::/32"), "a Teredo address"},
	{netip.MustParsePrefix("2001::/23"), "a reserved address"},
	{netip.MustParsePrefix("2001:db8::/32"), "a documentation address"},
	{netip.MustParsePrefix("3fff::/20"), "a documentation address"},
	{netip.MustParsePrefix("fc00::/7"), "a private address"}, // with the metadata service fd00:ec2::254
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	{netip.MustParsePrefix("ff00::/8"), "a multicast address"},
}

var globalUnicast = netip.MustParsePrefix("2000::/3")

// guard knows which addresses may be connected to.
type guard struct{ allowed []netip.Prefix }

// check returns a *refusal for an address that is neither public nor in an allowed network. An IPv4 address in the form of IPv6 is
// allowed only by a network of that form.
func (g guard) check(addr netip.Addr) error {
	for _, network := range g.allowed {
		if network.Contains(addr.WithZone("")) {
			return nil
		}
	}
	if !addr.IsValid() || addr.Zone() != "" {
		return &refusal{addr, "an address of one link"}
	}
	for _, r := range refused {
		if r.network.Contains(addr) {
			return &refusal{addr, r.kind}
		}
	}
	if addr.Is6() && !globalUnicast.Contains(addr) {
		return &refusal{addr, "a reserved address"}
	}
	return nil
}

// control checks the address of a connection that is about to be made. The resolver has no mapped form: it is the same address.
func (g guard) control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return &refusal{kind: "no address"}
	}
	return g.check(at.Addr().Unmap())
}

// checkHost checks a host of a URL that is an address, or a name of this machine; others are checked when they are connected to.
// One that is not ASCII is checked as net/http makes it ASCII, where 127。0。0。１ becomes an address: through a proxy nobody else sees it.
// What no resolver can look up (RFC 1035, 2.3.4) is no name.
func (g guard) checkHost(host string) error {
	if strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII }) {
		ascii, err := idna.Lookup.ToASCII(host)
		if err != nil {
			return errNoName
		}
		host = ascii
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		name = "127.0.0.1"
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		return g.check(addr)
	}
	// What ends in a number is taken for an IPv4 address by some resolvers, such as 127.1, 0x7f000001 and 2130706433.
	last := name[strings.LastIndexByte(name, '.')+1:]
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") && strings.Trim(last[2:], "0123456789abcdef") == "" {
		return errNoName
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel || len(name) > maxName {
			return errNoName
		}
	}
	return nil
}

// The most bytes of a name and of each of its labels.
const (
	maxName  = 253
	maxLabel = 63
)

var errNoName = errors.New("is neither a name nor an address")

// ParseNetworks parses networks such as 10.1.0.0/16 or fd00::/8, and addresses, which are networks of one.
func ParseNetworks(texts []string) (networks []netip.Prefix, err error) {
	for _, text := range texts {
		text = strings.TrimSpace(text)
		network, err := netip.ParsePrefix(text)
		if addr, addrErr := netip.ParseAddr(text); addrErr == nil && addr.Zone() == "" {
			network, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil || network != network.Masked() {
			return nil, fmt.Errorf("has %q; it takes networks such as 10.1.0.0/16 or fd00::/8, and addresses", text)
		}
		networks = append(networks, network)
	}
	return networks, nil
}
