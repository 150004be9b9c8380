package kv_test

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"plinth/internal/kv"
)

func TestURLs(t *testing.T) {
	t.Parallel()
	// Prefixes of descriptions of clients: the type, the first address, and all addresses.
	const single, cluster, sentinel = "single ", "cluster ", "sentinel "
	for url, want := range map[string]string{
		"redis://h":                                 single + "h:6379",
		"redis://h:1/2":                             single + "h:1",
		"rediss://u:p@h:1/2?pool_size=5":            single + "h:1",
		"redis://:p%2C,q@h:1":                       single + "h:1",
		"redis://[::1]":                             single + "[::1]:6379",
		"redis://[::1]:1":                           single + "[::1]:1",
		"redis://a,b:1":                             cluster + "a:6379 b:1",
		"redis://a,b:1/":                            cluster + "a:6379 b:1",
		"rediss://u:p@a:1,b:2,c:3/0?pool_size=5":    cluster + "a:1 b:2 c:3",
		"redis://a:1?addr=b:2&addr=c":               cluster + "a:1 b:2 c:6379",
		"redis://[::1]:1,[::2]":                     cluster + "[::1]:1 [::2]:6379",
		"redis://h:1?cluster=true":                  cluster + "h:1",
		"redis://a/2?master_name=m":                 sentinel,
		"rediss://u:p@a:1,b/2?master_name=m":        sentinel,
		"redis://a?master_name=m&addr=b&password=p": sentinel,
	} {
		client, err := kv.Open(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		got := ""
		switch client := client.(type) {
		case *redis.ClusterClient:
			got = cluster + strings.Join(client.Options().Addrs, " ")
		case *redis.Client:
			got = single + client.Options().Addr
			if client.Options().Addr == "FailoverClient" {
				got = sentinel
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
		_ = client.Close()
	}
	for url, want := range map[string]string{
		"":                                     "is not a Redis URL",
		"hidden":                               "is not a Redis URL",
		"h:6379":                               "is not a Redis URL",
		"http://hidden":                        "is not a Redis URL",
		"unix:///hidden":                       "is not a Redis URL",
		"redis://":                             "is not a Redis URL",
		"redis://:1":                           "is not a Redis URL",
		"redis://hidden:":                      "is not a Redis URL",
		"redis://hidden:x":                     "is not a Redis URL",
		"redis://a,":                           "is not a Redis URL",
		"redis://a,,b":                         "is not a Redis URL",
		"redis://u:hid/den@h":                  "is not a Redis URL",
		"redis://u:hid?den=1@h":                "is not a Redis URL",
		"redis://u:hid#den@h":                  "is not a Redis URL",
		"redis://u:%hidden@h":                  "is not a Redis URL",
		"redis://h/hidden":                     "is not a Redis URL",
		"redis://h/0/hidden":                   "is not a Redis URL",
		"redis://h?hidden=1":                   "is not a Redis URL",
		"redis://h?pool_size=hidden":           "is not a Redis URL",
		"redis://a,b?hidden=1":                 "is not a Redis URL",
		"redis://a,b/1":                        "has none but 0",
		"redis://a,b?db=1":                     "has none but 0",
		"redis://h/1?cluster=true":             "has none but 0",
		"redis://h?cluster=hidden":             "than true",
		"redis://h?cluster=true&master_name=m": "one or the other",
		"redis://h?master_name=":               "is not a Redis URL",
		"redis://a/hidden?master_name=m":       "is not a Redis URL",
		"rediss://h?skip_verify=true":          "SSL_CERT_FILE",
		"redis://a?master_name=m&replica_only=true":     "replicas",
		"redis://a,b?read_only=true":                    "replicas",
		"redis://a,b?route_randomly=true":               "replicas",
		"redis://a?master_name=m&route_by_latency=true": "replicas",
	} {
		err := kv.CheckURL(url)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", url, err, want)
		} else if strings.Contains(err.Error(), "hid") || strings.Contains(err.Error(), "den") {
			t.Errorf("%s: the error repeats it: %v", url, err)
		}
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"plinth:{acme}":                 kv.Key("acme"),
		"plinth:{acme}:rate:tenant":     kv.Key("acme", "rate", "tenant"),
		"plinth:{acme}:rate:key:a:{b}c": kv.Key("acme", "rate", "key", "a:{b}c"),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
