package file

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"plinth/internal/blob"
)

// orphanInterval is how often the bucket is searched.
const orphanInterval = 6 * time.Hour

var noUpload blob.Begun

// reapOrphans looks at every object of the bucket for those that belong to no file, and aborts uploads in parts that nobody
// knows. What is younger than the setting is left alone: its row may be about to be committed.
func (s *Service) reapOrphans(ctx context.Context) error {
	before := time.Now().Add(-s.limits.OrphanAge)
	if err := s.abortUnknown(ctx, before); err != nil {
		return err
	}
	// Rows of what is older than this database may have been lost when it was restored.
	since, err := storageSince(ctx, s.system)
	if err != nil && s.limits.Orphans == remove {
		s.log.Warn("objects without files are not removed: it cannot be found out whether the database was restored", zap.Error(err))
		since = time.Now()
	}
	counts := map[string]int{} // by tenant
	for after, more := "", true; more; {
		var objects []blob.Object
		if objects, more, err = s.bucket.List(ctx, "", after); err != nil {
			return err
		}
		if len(objects) == 0 {
			break
		}
		after = objects[len(objects)-1].Key
		if err := s.reapPage(ctx, objects, before, since, counts); err != nil {
			return err
		}
	}
	for tenant, n := range counts {
		s.log.Warn("objects belong to no file", zap.String("tenant", tenant), zap.Int("objects", n), zap.String("orphans", s.limits.Orphans))
	}
	return nil
}

// reapPage counts the orphans among objects, and removes them if that is set.
func (s *Service) reapPage(ctx context.Context, objects []blob.Object, before, since time.Time, counts map[string]int) error {
	old := objects[:0]
	for _, o := range objects {
		if _, _, ours := parseKey(o.Key); ours && o.ModifiedAt.Before(before) {
			old = append(old, o)
		}
	}
	keys := make([]string, len(old))
	for i, o := range old {
		keys[i] = o.Key
	}
	known, err := s.known(ctx, keys)
	if err != nil {
		return err
	}
	for _, o := range old {
		if known[fileKey(o.Key)] {
			continue
		}
		tenant, _, _ := parseKey(o.Key)
		counts[tenant]++
		if s.limits.Orphans != remove || !o.ModifiedAt.After(since) {
			continue
		}
		if err := s.bucket.Remove(ctx, o.Key); err != nil {
			return err
		}
	}
	return nil
}

// abortUnknown aborts uploads in parts of files that are not pending any more, or never were.
func (s *Service) abortUnknown(ctx context.Context, before time.Time) error {
	for after, more := noUpload, true; more; {
		begun, next, err := s.bucket.Uploads(ctx, "", after)
		if err != nil || len(begun) == 0 {
			return err
		}
		after, more = begun[len(begun)-1], next
		keys := make([]string, len(begun))
		for i, u := range begun {
			keys[i] = u.Key
		}
		known, err := s.known(ctx, keys)
		if err != nil {
			return err
		}
		for _, u := range begun {
			if _, _, ours := parseKey(u.Key); !ours || known[u.Key] || !u.At.Before(before) {
				continue
			}
			if err := u.Abort(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// known returns which keys are those of files.
func (s *Service) known(ctx context.Context, keys []string) (map[string]bool, error) {
	var tenants, ids []string
	for _, key := range keys {
		if tenant, id, ours := parseKey(key); ours {
			tenants, ids = append(tenants, tenant), append(ids, id)
		}
	}
	return selectKnown(ctx, s.system, tenants, ids)
}

// fileKey returns the key of the file that an object belongs to: what stands beside it has a suffix.
func fileKey(key string) string {
	if slash := strings.IndexByte(key, '/'); slash >= 0 {
		if dot := strings.IndexByte(key[slash:], '.'); dot >= 0 {
			return key[:slash+dot]
		}
	}
	return key
}

// parseKey returns the tenant and the id in a key. ours is false for keys that are no file's, such as those of others who use the
// bucket, too.
func parseKey(key string) (tenant, id string, ours bool) {
	tenant, id, ours = strings.Cut(fileKey(key), "/")
	_, err := uuid.Parse(id)
	return tenant, id, ours && err == nil && len(id) == len(uuid.Nil.String())
}
