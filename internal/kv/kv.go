// Package kv provides access to Redis: one server, a primary that Sentinel names, or a Cluster. Losing Redis costs speed but
// never correctness: whatever must be correct is a row in Postgres. So every user of a client knows what to do when Away
// reports true.
//
// Keys begin with Key, which puts the keys of a tenant into one slot of a Cluster. Commands and scripts declare all their keys
// and use those of one tenant; none asks for CONFIG or INFO, which hosted servers refuse.
package kv

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// Open returns a client for a URL that CheckURL accepts. It connects when it is first used, and again after each loss. It never
// reads from replicas. A command ends at the deadline of its context, connecting included, and closes its connection if a reply was
// still to come on it.
func Open(url string) (redis.UniversalClient, error) {
	open, err := parse(url)
	if err != nil {
		return nil, err
	}
	client := open()
	client.AddHook(observed{})
	return client, nil
}

// Ping asks Redis whether it is there, in a Cluster each node with slots.
func Ping(ctx context.Context, client redis.UniversalClient) error {
	if cluster, ok := client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return node.Ping(ctx).Err() })
	}
	return client.Ping(ctx).Err()
}

// LogTo has the clients of this process write to a log what they would write to standard error. It writes at debug level, since
// whoever uses a client reports its errors.
func LogTo(log *zap.Logger) { redis.SetLogger(clientLog{log}) }

type clientLog struct{ *zap.Logger }

func (l clientLog) Printf(_ context.Context, format string, values ...any) {
	if checked := l.Check(zap.DebugLevel, "Redis client"); checked != nil {
		checked.Write(zap.String("message", fmt.Sprintf(format, values...)))
	}
}
