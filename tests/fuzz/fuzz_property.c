/* SPDX-License-Identifier: MIT */
/* Extended attributes: a message of a stranger's, then a row of setxattr and removexattr. */
#include "fuzz.h"

#include <errno.h>

#include <mqfs/property.h>

#define HEADERS_MAX 32768 /* property.c's */

static char *input_name(struct input *input)
{
	static const char *const names[] = {
	    "priority", "content-type", "content-encoding", "correlation-id", "reply-to",  "type",
	    "app-id",   "message-id",   "expiration",       "header.a",       "header.CC", "header.x-",
	    "user-id",  "timestamp",    "header.mqfs-",     "queue",          "delay",
	};
	unsigned which = input_below(input, 32);
	char *name = which < sizeof(names) / sizeof(names[0]) ? strdup(names[which]) : input_text(input);

	EXPECT(name);
	return name;
}

static void expect_present(const char *name, void *arg)
{
	const char **wanted = arg;

	if (*wanted && strcmp(*wanted, name) == 0)
		*wanted = NULL;
}

/* It is listed, and reads as it was written, but for zeros in front of a number. */
static void expect_set(const struct mqfs_message *message, const char *name, const char *value, size_t bytes)
{
	const char *wanted = name;
	size_t got_bytes;
	char *got;

	mqfs_property_each(message, expect_present, &wanted);
	EXPECT(!wanted);
	EXPECT(mqfs_property_get(message, name, &got, &got_bytes) == 0);
	if (strcmp(name, "priority") == 0)
		EXPECT(atoi(got) == atoi(value));
	else
		EXPECT(got_bytes == bytes && memcmp(got, value, bytes) == 0);
	free(got);
}

static void set(struct mqfs_message *message, const char *name, const char *value, size_t bytes)
{
	struct mqfs_message *before = mqfs_message_copy(message);
	int r = mqfs_property_set(message, name, value, bytes);

	EXPECT(before);
	if (r == 0) {
		expect_set(message, name, value, bytes);
		EXPECT(strncmp(name, "header.", 7) != 0 || mqfs_table_encoded_bytes(&message->headers) <= HEADERS_MAX);
	} else {
		EXPECT(r == -EINVAL || r == -E2BIG || r == -ENODATA || r == -EPERM);
		EXPECT(same_message(before, message));
	}
	mqfs_message_free(before);
}

static void remove_one(struct mqfs_message *message, const char *name)
{
	struct mqfs_message *before = mqfs_message_copy(message);
	size_t bytes;
	char *text;

	EXPECT(before);
	if (mqfs_property_remove(message, name) == 0)
		EXPECT(mqfs_property_get(message, name, &text, &bytes) == -ENODATA);
	else
		EXPECT(same_message(before, message));
	mqfs_message_free(before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = {.at = data, .left = size};
	struct mqfs_message *message = input_message(&input);

	while (input.left > 0) {
		char *name, *value;
		size_t bytes;
		bool removes = input_byte(&input) & 1;

		name = input_name(&input);
		if (removes) {
			remove_one(message, name);
		} else {
			value = input_bytes(&input, &bytes);
			set(message, name, value, bytes);
			free(value);
		}
		free(name);
	}
	expect_readable(message);
	mqfs_message_free(message);
	return 0;
}
