package app

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestAdminNames has a page of another name ask for what is on the loopback address, as a browser does after DNS rebinding.
func TestAdminNames(t *testing.T) {
	t.Parallel()
	everywhere, local := &net.TCPAddr{IP: net.IPv4zero}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	for _, test := range []struct {
		addr *net.TCPAddr
		host string
		want int
	}{
		{local, "localhost:9090", http.StatusOK},
		{local, "LOCALHOST.", http.StatusOK},
		{local, "127.0.0.1:9090", http.StatusOK},
		{local, "[::1]:9090", http.StatusOK},
		{&net.TCPAddr{IP: net.IPv6loopback}, "evil.example:9090", http.StatusMisdirectedRequest},
		{local, "evil.example", http.StatusMisdirectedRequest},
		{local, "evil.example:9090", http.StatusMisdirectedRequest},
		{local, "localhost.evil.example:9090", http.StatusMisdirectedRequest},
		{local, "127.0.0.1.evil.example:9090", http.StatusMisdirectedRequest},
		{local, "", http.StatusMisdirectedRequest},
		{everywhere, "plinth:9090", http.StatusOK},
	} {
		request := httptest.NewRequest("PUT", "/log/level", nil)
		request.Host = test.host
		reply := httptest.NewRecorder()
		localNames(test.addr, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(reply, request)
		if reply.Code != test.want {
			t.Errorf("%s is asked as %q: %d, not %d", test.addr, test.host, reply.Code, test.want)
		}
	}
}
