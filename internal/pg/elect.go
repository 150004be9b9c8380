package pg

import (
	"context"
	"hash/fnv"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// duty is something that one process of those who have it does at once, its leader, and the others only where that one does
// not. The leader's listening connection holds an advisory lock.
type duty struct {
	key   int64
	taken atomic.Bool // by this process, which may lead
	leads atomic.Bool
	begin func() // is called when it begins to lead, and must not block
}

// newDuty comes before Run.
func (n *Notifier) newDuty(name string, begin func()) *duty {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte("plinth " + name))
	d := &duty{key: int64(hash.Sum64()), begin: begin}
	n.duties = append(n.duties, d)
	return d
}

// take has this process lead as soon as nobody else does, until stop is called.
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

// elect tries to take the lead of each duty, which ends with the connection. It also finds out whether that still lives.
func (n *Notifier) elect(ctx context.Context, conn *pgx.Conn) error {
	n.mu.Lock()
	n.electing = false
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	asked := false
	for _, d := range n.duties {
		taken, leads := d.taken.Load(), d.leads.Load()
		if taken == leads {
			continue
		}
		asked = true
		var done bool
		sql := `SELECT pg_try_advisory_lock($1)`
		if !taken {
			d.leads.Store(false)
			sql = `SELECT pg_advisory_unlock($1)`
		}
		if err := conn.QueryRow(ctx, sql, d.key).Scan(&done); err != nil {
			return err
		}
		d.leads.Store(taken && done)
		if taken && done {
			d.begin()
		}
	}
	if asked {
		return nil
	}
	return conn.Ping(ctx)
}
