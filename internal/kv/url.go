package kv

import (
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Ports of hosts that name none.
const (
	serverPort   = "6379"
	sentinelPort = "26379"
)

var (
	errURL = errors.New("is not a Redis URL; write it as redis://user:password@host:6379/0, " +
		"a Cluster as redis://user:password@host1:6379,host2:6379, " +
		"Sentinels as redis://host1:26379,host2:26379/0?master_name=name&username=user&password=password")
	errCluster   = errors.New("has cluster with another value than true")
	errDatabase  = errors.New("names a database; a Redis Cluster has none but 0")
	errSentinels = errors.New("has cluster and master_name; a Redis is one or the other")
	errVerify    = errors.New("has skip_verify; certificates are always verified: the environment variable SSL_CERT_FILE names the file " +
		"of a private certificate authority")
	errReplicas = errors.New("reads from replicas (read_only, replica_only, route_by_latency, route_randomly, use_disconnected_replicas), " +
		"which may not have what was just written")
)

// CheckURL reports what is wrong with the URL of a Redis. The schemes are redis:// and, with TLS, rediss://. The forms are those
// of go-redis (ParseURL, ParseClusterURL, ParseFailoverURL), and hosts may also stand side by side, with commas between them:
//
//	redis://user:password@host:6379/0                                       one server
//	redis://user:password@host1:6379,host2:6379                             a Cluster
//	redis://user:password@host:6379?addr=host2:6379                         the same
//	redis://user:password@host:6379?cluster=true                            a Cluster by one of its hosts
//	redis://host1:26379,host2:26379/0?master_name=m&username=u&password=p   Sentinels; a user before @ is that of the Sentinels
//
// With TLS every host must have a certificate for the name or address that it is reached at, which a Cluster and Sentinels may
// announce themselves. The errors do not repeat the URL, which may hold a password.
func CheckURL(url string) error {
	_, err := parse(url)
	return err
}

// parse returns the function that opens the client of a URL.
func parse(text string) (open func() redis.UniversalClient, err error) {
	u, hosts, err := split(text)
	if err != nil {
		return nil, err
	}
	query := u.Query()
	cluster, sentinels := query.Get("cluster"), query.Has("master_name")
	hosts = append(hosts, query["addr"]...)
	query.Del("cluster")
	query.Del("addr")
	switch {
	case query.Has("skip_verify"):
		return nil, errVerify
	case slices.ContainsFunc([]string{"read_only", "replica_only", "route_by_latency", "route_randomly", "use_disconnected_replicas"}, query.Has):
		return nil, errReplicas
	case sentinels && query.Get("master_name") == "":
		return nil, errURL
	case cluster != "" && cluster != "true":
		return nil, errCluster
	case cluster != "" && sentinels:
		return nil, errSentinels
	}
	for i, host := range hosts {
		if hosts[i], err = withPort(host, sentinels); err != nil {
			return nil, err
		}
	}
	u.Host, query["addr"] = hosts[0], hosts[1:]
	u.RawQuery = query.Encode()
	switch {
	case sentinels:
		return openFailover(u)
	case cluster != "" || len(hosts) > 1:
		return openCluster(u)
	default:
		return openSingle(u)
	}
}

// split returns a URL with the first of its hosts, and all of them.
func split(text string) (u *url.URL, hosts []string, err error) {
	scheme, rest, _ := strings.Cut(text, "://")
	if scheme != "redis" && scheme != "rediss" {
		return nil, nil, errURL
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, tail := rest[:end], rest[end:]
	at := strings.LastIndex(authority, "@") + 1
	hosts = strings.Split(authority[at:], ",")
	if u, err = url.Parse(scheme + "://" + authority[:at] + hosts[0] + tail); err != nil || u.Fragment != "" {
		return nil, nil, errURL
	}
	return u, hosts, nil
}

func withPort(host string, sentinel bool) (string, error) {
	port := serverPort
	if sentinel {
		port = sentinelPort
	}
	name := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if h, p, err := net.SplitHostPort(host); err == nil {
		name, port = h, p
	}
	if name == "" || port == "" || strings.ContainsAny(name, "[]/ ") {
		return "", errURL
	}
	return net.JoinHostPort(name, port), nil
}

func openSingle(u *url.URL) (func() redis.UniversalClient, error) {
	options, err := redis.ParseURL(u.String())
	if err != nil {
		return nil, errURL
	}
	options.ContextTimeoutEnabled = true
	return func() redis.UniversalClient { return redis.NewClient(options) }, nil
}

func openCluster(u *url.URL) (func() redis.UniversalClient, error) {
	if path := strings.Trim(u.Path, "/"); path != "" && path != "0" || u.Query().Has("db") {
		return nil, errDatabase
	}
	options, err := redis.ParseClusterURL(u.String())
	if err != nil {
		return nil, errURL
	}
	options.TLSConfig = everyHost(options.TLSConfig)
	options.ContextTimeoutEnabled = true
	options.DisableRoutingPolicies = true // To find them it asks every node in turn, for up to five seconds, and ctx does not end that.
	return func() redis.UniversalClient { return redis.NewClusterClient(options) }, nil
}

func openFailover(u *url.URL) (func() redis.UniversalClient, error) {
	options, err := redis.ParseFailoverURL(u.String())
	if err != nil {
		return nil, errURL
	}
	options.TLSConfig = everyHost(options.TLSConfig)
	options.ContextTimeoutEnabled = true
	return func() redis.UniversalClient { return redis.NewFailoverClient(options) }, nil
}

// everyHost has each certificate verified for the host that is connected to, and not for the first host of the URL.
func everyHost(config *tls.Config) *tls.Config {
	if config != nil {
		config.ServerName = ""
	}
	return config
}
