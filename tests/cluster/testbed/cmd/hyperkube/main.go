// Command hyperkube is the cluster's programs in one file, which links their common code once: a third of the disk and
// a sixth of the link time of separate ones. It acts as the program that its name says (by a symbolic link) or its
// first argument. Each program has a file of its own here, and build tags choose: a level of the testbed compiles only
// what it runs.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"maps"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

// programs holds what this build contains: a program's name and what runs it.
var programs = map[string]func(){}

// server makes a program of one of Kubernetes' server commands.
func server(command func() *cobra.Command) func() {
	return func() { os.Exit(cli.Run(command())) }
}

func main() {
	name := filepath.Base(os.Args[0])
	if programs[name] == nil && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		name = os.Args[0]
	}
	run, found := programs[name]
	if !found {
		names := slices.Sorted(maps.Keys(programs))
		fmt.Fprintf(os.Stderr, "usage: hyperkube {%s} ...\n", strings.Join(names, "|"))
		os.Exit(2)
	}
	run()
}
