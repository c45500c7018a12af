// Package provider obtains access tokens from identity providers: one request,
// one bounded answer, one typed error.
//
// It speaks the client credentials grant (RFC 6749, section 4.4) and reads
// answers with a parser of its own, because real providers send lifetimes as
// strings and fractions or not at all, errors as HTML, and bodies without end,
// and because no byte of an answer may reach a log. Resilient adds what any
// provider needs in front of it: a few retries within the caller's time, a
// budget of requests, and a circuit breaker where the operator wants one.
//
// The package imports nothing else of this module.
package provider
