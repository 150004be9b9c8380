package pg

import "github.com/jackc/pgx/v5/pgxpool"

// Pool is what the tests outside of the package look at connections with as they come back.
func (p *pool) Pool() *pgxpool.Pool { return p.conns }
