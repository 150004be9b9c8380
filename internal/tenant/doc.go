// Package tenant manages the tenants of the service, their API keys, and their quotas.
//
// A key is valid from its creation until it expires or is revoked, whichever comes first. While a tenant is disabled, all its
// keys are refused, but none of them ends. Neither a revoked key nor a deleted tenant comes back.
//
// Every process caches the keys and tenants that it has looked up, in one snapshot. A transaction that changes who may do what
// increments the number in tenant_changes; when that number has changed, the snapshot is dropped. A process reads the number
// after a notification, four times a second while there are calls, and in a call that finds the last answer older than 900 ms.
// So a change takes effect everywhere within a second, and while PostgreSQL does not answer, nobody is admitted by data that
// may be outdated (errs.Unavailable). The result of a lookup is stored only in the snapshot that it was made for, so what it
// read before a change is dropped with that snapshot. The lookups of many calls are combined in one query, and only one query
// runs at a time: a client that tries unknown keys costs one connection.
//
// Anything that a tenant may have a limited number of has a Quota. The domain takes from it in the transaction that creates one
// more. Triggers record the changes of each statement as deltas, and one process adds them up. So usage is always what exists
// at that moment, and transactions do not wait for each other to count. An exact quota is read under a lock of the tenant's;
// other quotas are read once in a while and may be exceeded a little meanwhile. A tenant's own quotas are read with its usage,
// so they apply whoever acts for the tenant.
//
//	         DeleteTenant                    every Deletion done, no row left
//	active ───────────────► being deleted ───────────────────────────────────► gone, and the name is free
//
// A tenant can be deleted once it has nothing left that quotas count. All its rows go with it, whatever their table. Its calls
// are refused at once. The rest is removed in small steps: for a second by the process that was asked, and then by any process.
// Calls that were admitted before, within that second, may leave rows behind: nobody sees them, and they are removed before a
// tenant of the same name is created.
//
// The tables belong to no tenant: only plinth_system reads them.
package tenant
