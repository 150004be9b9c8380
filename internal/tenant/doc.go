// Package tenant holds who shares the service, the API keys that act for them, and what each of them may have.
//
// A key is good from its creation until it expires or is revoked, whichever comes first; a tenant that is disabled has all its
// keys refused, and none of them ended. Neither a revoked key nor a deleted tenant comes back.
//
// Every process keeps in memory what it has looked up of keys and tenants, in one snapshot. Whatever changes who may do what
// counts tenant_changes up in its transaction; a snapshot is thrown away when that number has changed. It is asked for when a
// notification comes, four times a second while calls do, and by a call that finds the last answer older than 900 ms: so a change
// is in effect everywhere within a second, and where PostgreSQL does not answer, nobody is let in on what may be outdated (errs.Unavailable). A lookup that was
// made for a snapshot is kept in that one alone, so what it read before a change is thrown away with it. Lookups of many calls
// are one question, and one question is on its way at a time: who tries keys that are nobody's costs one connection.
//
// What a tenant has a limited number of is a Quota, which the domain takes from in the transaction that makes one more. Triggers
// write down what each statement changes, as deltas, and one process adds them up: usage is what is there at any moment, and no
// two transactions wait for each other to count. An exact quota is read under a lock of the tenant's; another is read once in a
// while and may be passed a little meanwhile. A tenant's own quotas are read with its usage, so they hold whoever acts for it.
//
//	         DeleteTenant                    every Deletion done, no row left
//	active ───────────────► being deleted ───────────────────────────────────► gone, and the name is free
//
// A tenant is deleted when nothing is left of what quotas count, with all its rows, whatever their table. It is refused at once; the
// rest goes in small steps, in the hands of the process that was asked for a second, and then of any. Calls that were let in
// before, within that second, may leave rows behind: nobody sees them, and they go before a tenant of the same name begins.
//
// The tables belong to no tenant: only plinth_system reads them.
package tenant
