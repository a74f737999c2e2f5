// The reference CNI library's own client: libcni_client COMMAND CONFLIST CONTAINER NETNS IFNAME
//
// It keeps results where CNI_CACHE says, and finds plugins where CNI_PATH says.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
)

func main() {
	if err := call(os.Args[1], os.Args[2:]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func call(command string, words []string) error {
	list, err := libcni.ConfListFromFile(words[0])
	if err != nil {
		return err
	}
	runtime := &libcni.RuntimeConf{ContainerID: words[1], NetNS: words[2], IfName: words[3]}
	paths := filepath.SplitList(os.Getenv("CNI_PATH"))
	client := libcni.NewCNIConfigWithCacheDir(paths, os.Getenv("CNI_CACHE"), nil)
	ctx := context.Background()
	switch command {
	case "VALIDATE":
		_, err = client.ValidateNetworkList(ctx, list)
	case "ADD":
		result, err := client.AddNetworkList(ctx, list, runtime)
		if err == nil {
			err = result.PrintTo(os.Stdout)
		}
		return err
	case "CHECK":
		err = client.CheckNetworkList(ctx, list, runtime)
	case "DEL":
		err = client.DelNetworkList(ctx, list, runtime)
	}
	return err
}
