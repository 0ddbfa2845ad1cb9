/* SPDX-License-Identifier: MIT */
#include "boot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int boot_id_read(char ret_id[BOOT_ID_BYTES])
{
	char text[BOOT_ID_BYTES] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t bytes;

	if (fd < 0)
		return -errno;
	bytes = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (bytes <= 0)
		return -EIO;
	text[strcspn(text, "\n")] = '\0';
	strcpy(ret_id, text);
	return 0;
}
