package kvtest

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"plinth/internal/porttest"
)

const (
	clusterNodes = 3
	slots        = 16_384
)

// Cluster is a Redis Cluster of three nodes without replicas.
type Cluster struct {
	URL   string // names all nodes
	Nodes []*Server
}

// NewCluster starts a Cluster, with TLS unless authority is nil.
func NewCluster(t testing.TB, authority *Authority) *Cluster {
	t.Helper()
	c := &Cluster{}
	var addrs, busPorts []string
	for range clusterNodes {
		busPort := porttest.Free(t)
		args := []string{"--cluster-enabled", "yes", "--cluster-port", busPort, "--cluster-node-timeout", "2000", "--requirepass", Password}
		if authority != nil {
			args = append(args, "--tls-cluster", "yes")
		}
		node := start(t, authority, "", args...)
		c.Nodes, addrs, busPorts = append(c.Nodes, node), append(addrs, node.Addr), append(busPorts, busPort)
	}
	c.URL = urlOf(authority, Password, addrs...)
	_, first, _ := net.SplitHostPort(c.Nodes[0].Addr)
	for i, node := range c.Nodes {
		node.wait(t, "a node answers", func(ctx context.Context, client *redis.Client) bool { return client.Ping(ctx).Err() == nil })
		node.Do(t, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
		node.Do(t, "CLUSTER", "ADDSLOTSRANGE", i*slots/clusterNodes, (i+1)*slots/clusterNodes-1)
		if i > 0 {
			node.Do(t, "CLUSTER", "MEET", "127.0.0.1", first, busPorts[0])
		}
	}
	for _, node := range c.Nodes {
		node.wait(t, "the nodes are a Cluster", func(ctx context.Context, client *redis.Client) bool {
			info := client.ClusterInfo(ctx).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	return c
}

// AddReplica starts a replica of a node, which takes its place some seconds after the node is killed.
func (c *Cluster) AddReplica(t testing.TB, node *Server) *Server {
	t.Helper()
	busPort := porttest.Free(t)
	replica := start(t, nil, "", "--cluster-enabled", "yes", "--cluster-port", busPort, "--cluster-node-timeout", "2000", "--requirepass", Password,
		"--masterauth", Password)
	replica.wait(t, "the replica answers", func(ctx context.Context, client *redis.Client) bool { return client.Ping(ctx).Err() == nil })
	_, port, _ := net.SplitHostPort(replica.Addr)
	for _, n := range c.Nodes { // Each of them must know it before it votes.
		n.Do(t, "CLUSTER", "MEET", "127.0.0.1", port, busPort)
	}
	id := ""
	node.wait(t, "the node knows its id", func(ctx context.Context, client *redis.Client) bool {
		var err error
		id, err = client.Do(ctx, "CLUSTER", "MYID").Text()
		return err == nil
	})
	replica.wait(t, "the replica knows the node", func(ctx context.Context, client *redis.Client) bool {
		return client.ClusterReplicate(ctx, id).Err() == nil
	})
	replica.wait(t, "the replica follows", func(ctx context.Context, client *redis.Client) bool {
		return strings.Contains(client.Info(ctx, "replication").Val(), "master_link_status:up")
	})
	for _, n := range c.Nodes {
		n.wait(t, "all know the replica", func(ctx context.Context, client *redis.Client) bool {
			return strings.Contains(client.ClusterNodes(ctx).Val(), replica.Addr+"@"+busPort+" slave "+id)
		})
	}
	return replica
}

// Do has the server run a command.
func (s *Server) Do(t testing.TB, args ...any) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: s.Addr, Password: Password, TLSConfig: s.tls})
	defer func() { _ = client.Close() }()
	if err := client.Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}
