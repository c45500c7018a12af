// Package history is the truth of a chaos run and the judge of it: who could
// reach whom at every instant (Timeline), who acquired, held and presented which
// token (Book), and what the promises say about a request that failed or an
// acquisition that was made (Judge). The runs on processes and on containers
// break things each in their own way, and are judged here alike.
package history
