package kv

import "strings"

// Key returns the name of a tenant's key: plinth:{tenant}: and the parts, with a colon between them. The braces are a hash tag:
// in a Cluster all keys of a tenant are in one slot, so that one script or transaction may use several of them. A part but the
// last must not contain a colon, so that no two keys have one name.
func Key(tenant string, parts ...string) string {
	n := len("plinth:{}") + len(tenant)
	for _, part := range parts {
		n += len(":") + len(part)
	}
	var key strings.Builder
	key.Grow(n)
	key.WriteString("plinth:{")
	key.WriteString(tenant)
	key.WriteString("}")
	for _, part := range parts {
		key.WriteString(":")
		key.WriteString(part)
	}
	return key.String()
}
