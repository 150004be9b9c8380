package pg

import "github.com/jackc/pgx/v5/pgxpool"

// Pool returns the underlying pool, so that external tests can look at connections after they are returned.
func (p *pool) Pool() *pgxpool.Pool { return p.conns }
