package kvtest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

const (
	primaryName   = "main"
	sentinelCount = 3
)

// Sentinels watch a primary and its replica, and make the replica the primary soon after the primary is killed.
type Sentinels struct {
	URL              string // names all Sentinels
	Primary, Replica *Server
}

// NewSentinels starts a primary, a replica and Sentinels, with TLS unless authority is nil.
func NewSentinels(t testing.TB, authority *Authority) *Sentinels {
	t.Helper()
	s := &Sentinels{Primary: New(t, authority, "--masterauth", Password)}
	host, port, _ := net.SplitHostPort(s.Primary.Addr)
	s.Replica = New(t, authority, "--masterauth", Password, "--replicaof", host+" "+port)
	s.Replica.wait(t, "the replica follows", func(ctx context.Context, c *redis.Client) bool {
		return strings.Contains(c.Info(ctx, "replication").Val(), "master_link_status:up")
	})
	config := fmt.Sprintf("sentinel monitor %[1]s %[2]s %[3]s 2\nsentinel auth-pass %[1]s %[4]s\n"+
		"sentinel down-after-milliseconds %[1]s 500\nsentinel failover-timeout %[1]s 3000\n", primaryName, host, port, Password)
	var all []*Server
	var addrs []string
	for range sentinelCount {
		sentinel := start(t, authority, config, "--sentinel")
		all, addrs = append(all, sentinel), append(addrs, sentinel.Addr)
	}
	for _, sentinel := range all {
		client := redis.NewSentinelClient(&redis.Options{Addr: sentinel.Addr, TLSConfig: sentinel.tls, MaxRetries: -1, DialerRetries: 1})
		defer func() { _ = client.Close() }()
		eventually(t, "the Sentinels know each other and the replica", func(ctx context.Context) bool {
			return len(client.Sentinels(ctx, primaryName).Val()) == sentinelCount-1 && len(client.Replicas(ctx, primaryName).Val()) == 1
		}, all...)
	}
	s.URL = urlOf(authority, "", addrs...) + "/0?" + url.Values{
		"master_name": {primaryName}, "username": {"default"}, "password": {Password},
	}.Encode()
	return s
}

// ReplicaURL is that of the replica alone.
func (s *Sentinels) ReplicaURL() string { return s.Replica.URL }

// Wait waits until something is.
func (s *Sentinels) Wait(t testing.TB, what string, is func() bool) {
	t.Helper()
	eventually(t, what, func(context.Context) bool { return is() }, s.Primary, s.Replica)
}
