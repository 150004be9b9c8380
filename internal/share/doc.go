// Package share divides what a process has a limited amount of, such as memory, connections or calls at a time, among those
// who use it at the same time, so that no owner takes it all.
//
// An owner is a tenant, or an address where no tenant is known. It may have at most Times as much as is left free afterwards.
// So an owner who is alone gets Times/(Times+1) of the capacity, and the rest stays free for whoever comes next, who gets the
// same part of that rest. No owner has a fixed part, of which most would lie idle.
//
// What is not free can be waited for. Owners take turns, however many of their callers wait; those of one owner are served in
// the order in which they came, small amounts before large ones.
package share
