package cache

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
)

const (
	markFor   = 10 * time.Second // bounds how long a commit may take
	lateAfter = 2 * time.Second  // before the relay invalidates for a process that did not
)

// invalidation is the body of the waiting row of a transaction.
type invalidation struct {
	Keys  []string `json:"keys"`
	Token string   `json:"token"`
}

// InvalidateTx has values of Remember that depend on what tx changes loaded again once it is committed. Before the commit it marks
// the keys, so that what is loaded while the commit is on its way is not kept; after it, it removes what is kept and the mark. The
// transaction has a waiting row as well, so that the relay does that two seconds later if this process cannot.
//
// While Redis is reachable, no call that begins after the commit returns what was there before. See the package comment for the
// other bounds. A Redis that is away delays the commit by 50 ms once, and does not fail it. Errors: InvalidArgument; those of the
// database, which make tx unusable.
func (s *Service) InvalidateTx(ctx context.Context, tx *pg.Tx, keys ...string) error {
	parsed, err := parseKeys(keys)
	if err != nil || len(parsed) == 0 {
		return err
	}
	token := rand.Text()
	body, err := json.Marshal(invalidation{keys, token})
	if err != nil {
		return err
	}
	row, err := s.messages.PublishTx(ctx, tx, message.Publication{To: s.own, Body: body, Delay: lateAfter})
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	tx.BeforeCommit(func() { _ = s.invalidate(ctx, parsed, token, markFor) }) // If the mark is lost, what follows is still done.
	tx.AfterCommit(func() {
		if s.invalidate(ctx, parsed, token, 0) == nil {
			s.cancels.add(auth.TenantOf(ctx), row.ID)
		}
	})
	return nil
}

// invalidateLate does what a transaction's process did not do.
func (s *Service) invalidateLate(ctx context.Context, body []byte) error {
	var i invalidation
	if err := json.Unmarshal(body, &i); err != nil {
		return errs.Wrap(err, errs.Internal, "the row of an invalidation has another form")
	}
	keys, err := parseKeys(i.Keys)
	if err != nil {
		return err
	}
	return s.invalidate(ctx, keys, i.Token, 0)
}
