// Package dev runs the backends that a developer has not named: a private PostgreSQL, a Redis in memory and an S3
// server, and with them the whole service in one process. It is for development and tests; nothing shipped imports it.
//
// # What it promises
//
//   - A backend whose variable is set (DATABASE_URL, REDIS_URL, AMQP_URL, S3_ENDPOINT) is used and not started.
//   - Data lies under DATA_DIR and survives any end of the process. Nothing here ever deletes it.
//   - The private servers end with the process, however it ends. Close requests a fast shutdown of PostgreSQL, then an
//     immediate one, then sends SIGKILL, within one second altogether. After a kill -9 a shell beside S3 kills it;
//     PostgreSQL is ended by the kernel on Linux (Pdeathsig), and elsewhere by the next start, which finds it by its
//     postmaster.pid.
//   - Only one process at a time uses a DATA_DIR. This is enforced with flock, and the lock ends with the process that holds
//     it.
//   - A problem that a person has to fix is reported as one line that states what to do.
//
// # DATA_DIR
//
//	lock              held by the process that uses the folder; its pid is inside
//	postgres/         password and data/, made in a sibling folder and renamed, so it is there whole or not at all
//	postgres.url      the address of the private database with its password, for psql; mode 0600
//	postgres.log      the log of the server, truncated at a start when it is over 10 MB
//	s3/, s3.meta/     buckets as folders; s3.meta only on file systems without extended attributes
//	s3.credentials    the random key of the private S3; mode 0600
//	s3.log            the log of the S3 server, truncated likewise
//	bin/              PostgreSQL, where it had to be downloaded
//
// versitygw is built once for each version of it and for each user: plinth/ in the user's cache folder holds it.
//
// # PostgreSQL and root
//
// initdb and postgres refuse uid 0. For root they run as the owner of the data folder, at first as the user postgres or
// nobody, and keep CAP_DAC_OVERRIDE as an ambient capability on Linux, because DATA_DIR may lie below a folder such as
// /root that this user cannot enter.
package dev
