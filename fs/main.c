/* SPDX-License-Identifier: MIT */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mount.h"
#include "options.h"

static const char usage[] =
    "usage: mqfs mount [-f] [-o OPTION,…] [URL] DIR\n"
    "       mqfs URL DIR [-o OPTION,…]\n"
    "       mqfs settings\n"
    "       mqfs --version | --help\n"
    "\n"
    "URL is amqp://[USER@]HOST[:PORT][,HOST…][/VHOST] or sqlite:PATH; without one, the embedded store.\n"
    "The second form is that of mount.fuse3(8): type fuse.mqfs in fstab(5), with the URL for the device.\n"
    "-f stays in the foreground. `mqfs settings` lists what -o takes. See mqfs(1).\n";

static int list_settings(void)
{
	struct mqfs_settings defaults;
	const struct mqfs_setting *setting;
	char value[256];
	mqfs_settings_init(&defaults);
	for (size_t i = 0; (setting = mqfs_setting_at(i)); i++) {
		mqfs_settings_get(&defaults, setting->name, value, sizeof(value));
		printf("%-18s %-10s %s\n", setting->name, value, setting->help);
	}
	return EXIT_SUCCESS;
}

static int mount_command(int argc, char **argv)
{
	struct options options;
	int status = EXIT_FAILURE;
	if (options_parse(&options, argc, argv) == 0)
		status = mount_run(&options);
	options_clear(&options);
	return status;
}

/* mount.fuse3(8), for fstab(5) and mount(8), runs `mqfs SOURCE DIR -o …`. */
static bool is_source(const char *word)
{
	return word[0] != '-' && strpbrk(word, ":/");
}

int main(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "";
	if (is_source(command))
		return mount_command(argc, argv);
	if (strcmp(command, "mount") == 0)
		return mount_command(argc - 1, argv + 1);
	if (strcmp(command, "settings") == 0)
		return list_settings();
	if (strcmp(command, "--version") == 0 || strcmp(command, "-V") == 0) {
		printf("mqfs %s\n", MQFS_VERSION);
		return EXIT_SUCCESS;
	}
	if (strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0) {
		fputs(usage, stdout);
		return EXIT_SUCCESS;
	}
	fputs(usage, stderr);
	return EXIT_FAILURE;
}
