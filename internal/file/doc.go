// Package file keeps files: rows in PostgreSQL that describe objects in a bucket.
//
//	           all bytes stored            verified and inspected, or nobody inspects
//	pending ────────────────────► verifying ────────────────────► ready ──────► deleting ──► gone
//	   │                              │                                DeleteFile,
//	   │ breaks off, lease over       │ refused                        expiry
//	   └───────────► failed ◄─────────┘
//	                    └──► gone, after an hour
//
// A file is verified by reading it once, if it came directly to the bucket and that has not checked its SHA-256.
//
// The row comes first: an upload reserves it, its key and its share of the quotas before the first byte goes to the bucket. The
// row goes last: a worker removes the object, and then the row. So there is no object without a row, except for what a crash of
// PostgreSQL or a restored backup loses, which a reaper looks for. A file is ready only in the transaction that knows its
// size and SHA-256, and its event is committed with that transaction. Reads are pinned to the object that was stored.
//
// A resumable upload is pending for as long as its client comes back in time. What is stored of it, and how far it is, stands in rows of its
// own, so that any process continues it; see Resumable.
//
// An image has previews, whose objects stand beside its own. A worker makes one when it is first asked for, one at a time. How much memory an
// image takes is known from its header, before any of it is decoded.
//
// What happens on each failure:
//
//   - The client goes away, or the bucket does: the upload fails, and its row with it. A worker removes what there is of the
//     object, at once, and again after an hour, because a request that was given up may still arrive.
//   - The process dies: the lease of the row, which uploads keep renewing, runs out, and the row fails.
//   - The process hangs for longer than its lease, and comes back: its row is no longer pending, so the upload fails.
//   - The process that receives a resumable upload dies: its lease ends after ten seconds, and another process goes on from the last commit.
//   - That process hangs, and comes back after its lease: its commits are refused, and what it wrote to the bucket is part of nothing.
//   - A client sends bytes to the bucket itself and does not complete the upload, or does so too late: the upload fails at the end of its
//     time. What it sends after that, or after it has deleted the file, is removed, once an hour as long as its URL may be in use.
//   - The process dies while it completes such an upload: the client calls again, and the object tells how far it came.
//   - A worker dies while it verifies: its lease runs out, and another one reads the file from the start.
//   - A worker dies between object and row: the next one removes the object again, which is no error, and then the row.
//   - Workers die of a preview: after three, nobody tries it again.
//   - PostgreSQL is away when the bytes are stored: the upload is answered with an error, and its row fails by its lease.
//   - The bucket is away: reads and uploads are refused with Unavailable, deletions are accepted and wait.
package file
