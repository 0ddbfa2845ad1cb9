/* SPDX-License-Identifier: MIT */
#ifndef FS_OPTIONS_H
#define FS_OPTIONS_H

#include <stdbool.h>

#include <mqfs/settings.h>

/* What the command line of `mqfs mount` says. */
struct options {
	struct mqfs_settings settings;
	char *url;        /* owned */
	char *mountpoint; /* owned; absolute */
	char *state_dir;  /* owned; where the embedded store is when there is no URL */
	char *fuse;       /* owned: what goes to libfuse as it is, "allow_other,…"; NULL: nothing */
	bool foreground;
	bool allow_other;
};

/*
 * Reads `[-f] [-o OPTION,…] [URL] DIR`. 0, or -EINVAL after a message on standard error. Unknown options are refused,
 * but those that mount(8) and fstab(5) use and no filesystem sees. A password in a URL is refused, but for guest at the
 * loopback (M3).
 */
int options_parse(struct options *options, int argc, char **argv);
void options_clear(struct options *options);

#endif
