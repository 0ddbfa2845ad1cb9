/* SPDX-License-Identifier: MIT */
/* Names of queues, of their helpers, and of files: the input is a queue's name, then a file's. */
#include "fuzz.h"

#include <errno.h>

#include <mqfs/name.h>
#include <mqfs/retry.h>

#include "utf8.h"

static bool is_file_name(const char *file)
{
	size_t bytes = strlen(file);

	if (bytes == 0 || bytes > MQFS_NAME_MAX || file[0] == '.')
		return false;
	for (; *file; file++)
		if (*file == '/' || utf8_is_control(file, 1))
			return false;
	return true;
}

static bool is_cut(const char *file)
{
	const char *mark = strstr(file, "%~");

	return mark && strlen(mark) == 18 && strspn(mark + 2, "0123456789abcdef") == 16;
}

/* Every queue has one file name, which leads back to it unless it had to be cut. */
static void expect_file(const char *queue)
{
	mqfs_name_t file, back;

	memset(file, 'Z', sizeof(file));
	mqfs_name_encode(queue, file);
	EXPECT(is_file_name(file));
	if (mqfs_name_decode(file, back) == 0) {
		EXPECT(strcmp(back, queue) == 0);
		return;
	}
	EXPECT(is_cut(file));
}

static void expect_helpers(const char *queue)
{
	mqfs_name_t name, other;

	memset(name, 'Z', sizeof(name));
	mqfs_name_dead_queue(queue, name);
	EXPECT(strlen(name) <= MQFS_NAME_MAX && strcmp(name, queue) != 0);
	EXPECT(!utf8_is_valid(queue, strlen(queue)) || utf8_is_valid(name, strlen(name)));
	for (size_t i = 0; mqfs_retry_level_at(i) > 0; i++) {
		mqfs_name_delay_queue(queue, mqfs_retry_level_at(i), name);
		EXPECT(strlen(name) <= MQFS_NAME_MAX && mqfs_name_is_reserved(name));
		mqfs_name_delay_queue(queue, mqfs_retry_level_at(i + 1) + 1000, other);
		EXPECT(strcmp(name, other) != 0);
	}
}

/* And no other file name leads to a queue. */
static void expect_queue(const char *file)
{
	mqfs_name_t queue = "untouched", again;
	int r = mqfs_name_decode(file, queue);

	if (r < 0) {
		EXPECT(r == -EINVAL || r == -ENAMETOOLONG);
		EXPECT(strcmp(queue, "untouched") == 0);
		return;
	}
	EXPECT(queue[0] && strlen(queue) <= MQFS_NAME_MAX);
	mqfs_name_encode(queue, again);
	EXPECT(strcmp(again, file) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = {.at = data, .left = size};
	char *queue = input_text(&input), *file = input_text(&input);

	expect_queue(file);
	queue[strnlen(queue, MQFS_NAME_MAX)] = '\0'; /* what a broker can have */
	if (queue[0]) {
		expect_file(queue);
		expect_helpers(queue);
	}
	free(queue);
	free(file);
	return 0;
}
