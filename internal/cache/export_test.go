package cache

import (
	"strconv"
	"time"
)

const MemoReply = memoReply

const ReplyLimit = 90 * time.Millisecond // the default of Limits.ReplyTimeout

func (s *Service) SetReplyLimit(d time.Duration) { s.limit, s.memoLimit = d, d }

func (s *Service) SetLease(d time.Duration) { s.lease = d }

func (s *Service) SetNear(bytes, entries uint64) { s.near = newNear(bytes, entries) }

// NearEntries returns how many entries are near, once those above the bounds are gone.
func (s *Service) NearEntries() int {
	kept := s.near.open()
	kept.CleanUp()
	return kept.EstimatedSize()
}

// NearSize returns how much what is near weighs, and how much it may.
func (s *Service) NearSize() (used, most uint64) {
	kept := s.near.open()
	kept.CleanUp()
	return kept.WeightedSize(), kept.GetMaximum()
}

// FillNear keeps entries near that weigh so much each.
func (s *Service) FillNear(entries int, weight uint32) {
	for i := range entries {
		key := nearKey{"tenant", strconv.Itoa(i)}
		s.near.put(key, s.near.ageOf(key).Load(), &nearValue{until: time.Hour, weight: weight})
	}
}
