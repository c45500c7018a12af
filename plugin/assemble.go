package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"orthanc-oauth/internal/config"
)

// nodeMaker makes the assembly of a configuration that has been checked, and logs
// its warnings.
type nodeMaker func(conf *config.Config, c credentials, log *slog.Logger) (assembly, error)

// assembleWith returns the assembler that reads the configuration Orthanc hands
// over, with its variables replaced already.
func assembleWith(newNode nodeMaker) assembler {
	return func(orthancJSON []byte, c credentials, log *slog.Logger, level *slog.LevelVar) (built, error) {
		conf, err := config.Parse(orthancJSON, config.Options{})
		if err != nil {
			return built{}, describe(err)
		}
		level.Set(conf.LogLevel)
		if !conf.Enabled {
			log.Warn("switched off by Enabled in the configuration")
			return built{}, nil
		}
		node, err := newNode(conf, c, log)
		if err != nil {
			return built{}, err
		}
		return built{
			node:         node,
			dicomWebRoot: conf.Orthanc.DicomWebRoot,
			timeout:      conf.Proxy.Timeout,
			configured:   conf.Orthanc.DicomWebServers,
		}, nil
	}
}

// describe puts all that is wrong with a configuration, each with its code, into
// one error.
func describe(err error) error {
	var all config.Errors
	if !errors.As(err, &all) {
		return fmt.Errorf("configuration: %w", err)
	}
	lines := make([]string, len(all))
	for i, e := range all {
		lines[i] = string(e.Code) + " " + e.Error()
	}
	return fmt.Errorf("the configuration is refused: %s", strings.Join(lines, "; "))
}
