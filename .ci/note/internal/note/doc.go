// Package note keeps notes.
//
// A note is there from the commit of CreateNote until it is deleted, by DeleteNote or, once it has expired, by a
// job. That may be late, so a note that has expired may be read for a while. That a note was created is published in the
// same transaction: it is told of if, and only if, it is there.
package note
