package idptest

import (
	"maps"
	"time"
)

// Counts is what the provider has seen. Every request counts once, on arrival.
type Counts struct {
	Total    int            `json:"total"`
	Granted  int            `json:"granted"`
	Open     int            `json:"open"`      // being answered now
	MostOpen int            `json:"most_open"` // the most that were open at once
	ByClient map[string]int `json:"by_client"`
	ByKey    map[string]int `json:"by_key"`    // client|scope|audience|resource
	ByAnswer map[string]int `json:"by_answer"` // granted, an OAuth error code, or a Kind
}

// Request is one token request as the provider saw it. It holds no secret.
type Request struct {
	Seq    int           `json:"seq"` // from 1, in order of arrival
	At     time.Time     `json:"at"`
	Took   time.Duration `json:"took,omitempty"` // 0 while open; nanoseconds in JSON
	From   string        `json:"from"`           // address, without the port
	Client string        `json:"client"`
	Key    string        `json:"key"`
	Style  string        `json:"style"` // basic, post, both, none
	Answer string        `json:"answer,omitempty"`
	Token  string        `json:"token,omitempty"` // Fingerprint of what was granted
}

// maxRequests bounds the list of requests; the counts go on beyond it.
const maxRequests = 1 << 16

type book struct {
	counts   Counts
	requests []*Request // by pointer: an open request is written to after Forget, too
}

func newBook() book {
	return book{counts: Counts{ByClient: map[string]int{}, ByKey: map[string]int{}, ByAnswer: map[string]int{}}}
}

func (i *IdP) arrived(from string, q request) *Request {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := &i.book.counts
	c.Total++
	c.Open++
	c.MostOpen = max(c.MostOpen, c.Open)
	c.ByClient[q.id]++
	c.ByKey[q.key()]++
	seen := &Request{Seq: c.Total, At: time.Now(), From: from, Client: q.id, Key: q.key(), Style: q.style}
	if len(i.book.requests) < maxRequests {
		i.book.requests = append(i.book.requests, seen)
	}
	return seen
}

func (i *IdP) note(seen *Request, answer string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.book.counts.ByAnswer[answer]++
	if answer == "granted" {
		i.book.counts.Granted++
	}
	seen.Answer = answer
}

func (i *IdP) granted(seen *Request, token string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	seen.Token = Fingerprint(token)
}

func (i *IdP) left(seen *Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.book.counts.Open--
	seen.Took = time.Since(seen.At)
}

// Counts returns what the provider has seen so far.
func (i *IdP) Counts() Counts {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.book.counts
	c.ByClient, c.ByKey, c.ByAnswer = maps.Clone(c.ByClient), maps.Clone(c.ByKey), maps.Clone(c.ByAnswer)
	return c
}

// Requests returns the token requests so far, in order of arrival.
func (i *IdP) Requests() []Request {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := make([]Request, len(i.book.requests))
	for n, r := range i.book.requests {
		out[n] = *r
	}
	return out
}

// Forget sets all counts to zero, but for the requests that are open.
func (i *IdP) Forget() {
	i.mu.Lock()
	defer i.mu.Unlock()
	open := i.book.counts.Open
	i.book = newBook()
	i.book.counts.Open, i.book.counts.MostOpen = open, open
}
