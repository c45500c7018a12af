// Package arrows holds what must stay true of the source as a whole and that no
// compiler checks: which package may know which, what only the outermost layer
// may do, and that the documents point at files that exist.
//
// It has no code of its own. Every rule is a row of a table that says why it is
// there and carries a planted violation, so that a rule which has gone blind
// fails as well. depguard holds the arrows of single files while they are being
// written; the tests here hold those of whole dependency trees.
package arrows
