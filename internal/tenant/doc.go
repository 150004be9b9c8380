// Package tenant holds who shares the service, the API keys that act for them, and what each of them may have.
//
// A key is good from its creation until it expires or is revoked, whichever comes first; a tenant that is disabled has all its
// keys refused, and none of them ended. Neither a revoked key nor a deleted tenant comes back.
//
// Every process keeps in memory what it has looked up of keys and tenants, in one snapshot. Whatever changes who may do what
// counts tenant_changes up in its transaction; a snapshot is thrown away when that number has changed. It is asked for four
// times a second, and by a call that finds the last answer older than 900 ms: so a change is in effect everywhere within a
// second, and where PostgreSQL does not answer, nobody is let in on what may be outdated (errs.Unavailable). A lookup that was
// made for a snapshot is kept in that one alone, so what it read before a change is thrown away with it.
//
// The tables belong to no tenant: only plinth_system reads them.
package tenant
