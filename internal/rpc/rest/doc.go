// Package rest has the rules of google.api.http: which RPC a method and a path mean, and how the path, the query and the body
// of a request become its message.
//
//   - A path is split first and each segment is decoded once. A verb, such as `:pause`, is what follows the last colon that
//     is not escaped.
//   - The path binds first. A body or a query parameter that gives a field of the path another value is refused, and so is a
//     query parameter for a field of the body: no part of a request replaces another. Unknown fields and parameters are
//     ignored.
//   - A PATCH whose request has an update_mask that is not set changes the fields that the body has, also to their zero
//     values; null sets a field to its default.
//
// What is wrong with a request is an errs.InvalidArgument that names the field, as its proto does.
package rest
