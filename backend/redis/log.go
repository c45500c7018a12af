package redis

import (
	"context"
	"fmt"
	"log/slog"

	goredis "github.com/redis/go-redis/v9"
)

// RedirectDriverLog sends what the go-redis library logs to log, at debug level.
// The library has one logger per process and writes a line to standard error
// for every failed dial, where a Redis logs once per change of state. So this is
// for whoever owns the process, and New does not call it.
func RedirectDriverLog(log *slog.Logger) { goredis.SetLogger(driverLog{log}) }

type driverLog struct{ log *slog.Logger }

func (d driverLog) Printf(ctx context.Context, format string, v ...any) {
	if d.log.Enabled(ctx, slog.LevelDebug) {
		d.log.DebugContext(ctx, "go-redis", "message", fmt.Sprintf(format, v...))
	}
}
