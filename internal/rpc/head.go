package rpc

import (
	"encoding/base64"
	"net/http"
	"regexp"
	"strings"

	"plinth/internal/errs"
)

// What the protocols allow as deadlines.
var (
	grpcTimeout    = regexp.MustCompile(`^[0-9]{1,8}[HMSmun]$`)
	connectTimeout = regexp.MustCompile(`^[0-9]{1,10}$`)
)

// checkHead checks what Connect would refuse in words of a library. Errors: InvalidArgument.
func (c *call) checkHead() error {
	h := c.request.Header
	if c.isGRPC() {
		if t := h.Get("Grpc-Timeout"); t != "" && !grpcTimeout.MatchString(t) {
			return errs.New(errs.InvalidArgument, "Grpc-Timeout: up to 8 digits and a unit, one of H, M, S, m, u and n, are allowed")
		}
		return nil
	}
	if t := h.Get("Connect-Timeout-Ms"); t != "" && !connectTimeout.MatchString(t) {
		return errs.New(errs.InvalidArgument, "Connect-Timeout-Ms: up to 10 digits are allowed")
	}
	if c.method != http.MethodGet {
		return nil
	}
	query := c.request.URL.Query()
	if query.Get("base64") == "1" {
		if _, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(query.Get("message"), "=")); err != nil {
			return errs.New(errs.InvalidArgument, "message: base64 with the alphabet of URLs is allowed")
		}
	}
	return nil
}
