package backend

import (
	"context"
	"time"
)

// Memory is the backend of a single process: each process acquires for itself.
type Memory struct {
	store   *Store
	flights *Flights
}

// NewMemory returns an empty Memory that ages its entries by clock.
func NewMemory(clock *Clock) *Memory {
	return &Memory{store: NewStore(clock), flights: NewFlights()}
}

var _ Backend = (*Memory)(nil)

// Get implements Backend.
func (m *Memory) Get(ctx context.Context, key string) (Entry, error) {
	if err := m.usable(ctx); err != nil {
		return Entry{}, err
	}
	e, ok := m.store.Get(key)
	if !ok {
		return Entry{}, ErrMiss
	}
	e.From = FromLocal
	return e, nil
}

// Set implements Backend.
func (m *Memory) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := m.usable(ctx); err != nil {
		return err
	}
	return m.store.Set(key, value, ttl)
}

// Delete implements Backend.
func (m *Memory) Delete(ctx context.Context, key string) (bool, error) {
	if err := m.usable(ctx); err != nil {
		return false, err
	}
	return m.store.Delete(key), nil
}

// Exists implements Backend.
func (m *Memory) Exists(ctx context.Context, key string) (bool, error) {
	if err := m.usable(ctx); err != nil {
		return false, err
	}
	_, ok := m.store.Get(key)
	return ok, nil
}

// Clear implements Backend.
func (m *Memory) Clear(ctx context.Context) error {
	if err := m.usable(ctx); err != nil {
		return err
	}
	for _, key := range m.store.Keys() {
		m.store.Delete(key)
	}
	return nil
}

// Fill implements Backend.
func (m *Memory) Fill(ctx context.Context, key string, stale Stamp, fill FillFunc) (Entry, error) {
	for {
		if err := m.usable(ctx); err != nil {
			return Entry{}, err
		}
		if e, ok := m.store.Newer(key, stale); ok {
			e.From = FromLocal
			return e, nil
		}
		e, err := m.flights.Do(ctx, key, func(ctx context.Context) (Entry, error) {
			return m.store.Acquire(ctx, key, stale, fill)
		})
		if err != nil || m.store.Usable(key, e, stale) {
			return e, err
		}
	}
}

// Revoke implements Backend.
func (m *Memory) Revoke(ctx context.Context, key string, id ID) error {
	if err := m.usable(ctx); err != nil {
		return err
	}
	return m.store.RevokePaced(key, id)
}

// Confirm implements Backend.
func (m *Memory) Confirm(ctx context.Context, key string, _ ID) error {
	if err := m.usable(ctx); err != nil {
		return err
	}
	m.store.Confirm(key)
	return nil
}

// Close implements Backend.
func (m *Memory) Close(ctx context.Context) error { return m.flights.Close(ctx) }

func (m *Memory) usable(ctx context.Context) error {
	if m.flights.Closed() {
		return ErrClosed
	}
	return ctx.Err()
}
