package redis

import (
	"context"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// peek reads a value and nothing else, at hardly more than the price of a GET.
// A value that says too little for that costs a look as well.
func (r *Redis) peek(ctx context.Context, key string) (view, error) {
	var raw string
	var left time.Duration
	sent := r.clock.Now()
	err := r.do(ctx, key, func(ctx context.Context) (err error) {
		raw, left, err = r.peeker(ctx, r.valueKey(key))
		return err
	})
	switch {
	case err != nil && !goredis.HasErrorPrefix(err, wrongType):
		return view{}, err
	case err != nil, raw != "" && left <= 0:
		return r.look(ctx, key)
	}
	now := r.clock.Now()
	v := view{at: now}
	r.takeValue(key, &v, raw, left-(now-sent), true)
	return v, nil
}

// wrongType begins what Redis answers where a key holds something else than a
// string: not ours, and nothing wrong with Redis.
const wrongType = "WRONGTYPE"

// peekPipelined reads in one round trip without a script. Left is 0 where it
// cannot be told.
//
// Other nodes' commands may come in between the two:
//  1. PTTL answers for the value held then, A, or for none.
//  2. Another node stores B.
//  3. GETRANGE answers with B.
//
// So what PTTL said may be too long for B. But then B is younger than this round
// trip, and its header says what life it was given: the sooner of the two is
// never later than B's end, whichever value PTTL was about.
func (r *Redis) peekPipelined(ctx context.Context, name string) (raw string, left time.Duration, err error) {
	pipe := r.client.Pipeline()
	pttl, get := pipe.PTTL(ctx, name), pipe.GetRange(ctx, name, 0, maxRaw)
	if _, err := pipe.Exec(ctx); err != nil {
		return "", 0, err
	}
	return get.Val(), min(pttl.Val(), millisOf(get.Val(), "px")), nil
}

// peekScripted is peekPipelined for a cluster, where the library may send the
// commands of a pipeline again one by one, in another order.
func (r *Redis) peekScripted(ctx context.Context, name string) (raw string, left time.Duration, err error) {
	reply, err := peek.Run(ctx, r.client, []string{name}, maxRaw).Slice()
	if err != nil || len(reply) != 2 {
		return "", 0, err
	}
	raw, _ = reply[0].(string)
	ms, _ := reply[1].(int64)
	return raw, time.Duration(ms) * time.Millisecond, nil
}
