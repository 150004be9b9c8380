package pg

import (
	"context"
	"hash/fnv"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// duty is work that several processes have taken on but only one of them, its leader, normally does; the others help only if
// the leader does not keep up. The leader's listening connection holds an advisory lock.
type duty struct {
	key   int64
	taken atomic.Bool // this process may lead
	leads atomic.Bool
	begin func() // called when this process begins to lead; must not block
}

// newDuty registers a duty. It must be called before Run.
func (n *Notifier) newDuty(name string, begin func()) *duty {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte("plinth " + name))
	d := &duty{key: int64(hash.Sum64()), begin: begin}
	n.duties = append(n.duties, d)
	return d
}

// take makes this process a candidate: it leads as soon as no other process does, until stop is called.
func (n *Notifier) take(d *duty) (stop func()) {
	d.taken.Store(true)
	n.electNow()
	return func() {
		d.taken.Store(false)
		n.electNow()
	}
}

func (n *Notifier) electNow() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.electing = true
	if n.wake != nil {
		n.wake()
	}
}

// elect tries to become the leader of each duty; leadership ends with the connection. The query also detects a dead
// connection.
func (n *Notifier) elect(ctx context.Context, conn *pgx.Conn) error {
	n.mu.Lock()
	n.electing = false
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	var wanted []*duty
	var keys []int64
	for _, d := range n.duties {
		switch taken, leads := d.taken.Load(), d.leads.Load(); {
		case taken && !leads:
			wanted, keys = append(wanted, d), append(keys, d.key)
		case leads && !taken:
			d.leads.Store(false)
			if _, err := conn.Exec(ctx, `SELECT pg_advisory_unlock($1)`, d.key); err != nil {
				return err
			}
		}
	}
	if len(wanted) == 0 {
		return conn.Ping(ctx)
	}
	rows, err := conn.Query(ctx, `SELECT pg_try_advisory_lock(key) FROM unnest($1::bigint[]) WITH ORDINALITY AS k (key, n) ORDER BY n`, keys)
	if err != nil {
		return err
	}
	locked, err := pgx.CollectRows(rows, pgx.RowTo[bool])
	if err != nil {
		return err
	}
	for i, d := range wanted {
		if locked[i] {
			d.leads.Store(true)
			d.begin()
		}
	}
	return nil
}
