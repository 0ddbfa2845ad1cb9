/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <stdio.h>

#include "amqp/arguments.h"

/* "name=value …", in the order of the table. */
static const char *told(const struct arguments *arguments)
{
	static char text[1024];
	size_t used = 0;

	text[0] = '\0';
	for (int i = 0; i < arguments->table.num_entries; i++) {
		const amqp_table_entry_t *entry = &arguments->table.entries[i];

		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%.*s=", i ? " " : "", (int)entry->key.len,
		                         (char *)entry->key.bytes);
		if (entry->value.kind == AMQP_FIELD_KIND_I64)
			used += (size_t)snprintf(text + used, sizeof(text) - used, "%lld",
			                         (long long)entry->value.value.i64);
		else
			used +=
			    (size_t)snprintf(text + used, sizeof(text) - used, "\"%.*s\"",
			                     (int)entry->value.value.bytes.len, (char *)entry->value.value.bytes.bytes);
	}
	return text;
}

static const char *work_queue(const struct mqfs_settings *settings, int version)
{
	static struct arguments arguments;

	arguments_work_queue(&arguments, "jobs", settings, version);
	return told(&arguments);
}

static void a_plain_queue(void **state)
{
	struct mqfs_settings settings;

	(void)state;
	mqfs_settings_init(&settings);
	settings.overflow = MQFS_OVERFLOW_DEFAULT;
	assert_string_equal(work_queue(&settings, 31008), "x-max-priority=10");
	settings.max_priority = 0;
	assert_string_equal(work_queue(&settings, 31008), "");
	assert_string_equal(work_queue(&settings, 31200), "x-queue-type=\"classic\"");
}

static void everything_for_a_classic_queue(void **state)
{
	struct mqfs_settings settings;

	(void)state;
	mqfs_settings_init(&settings);
	settings.overflow = MQFS_OVERFLOW_DEFAULT;
	settings.max_priority = 3;
	settings.lazy = true;
	settings.message_ttl_ms = 1000;
	settings.max_length = 7;
	settings.overflow = MQFS_OVERFLOW_REJECT_PUBLISH;
	settings.dead_letter = true;
	assert_string_equal(work_queue(&settings, 31008),
	                    "x-max-priority=3 x-queue-mode=\"lazy\" x-message-ttl=1000 x-max-length=7 "
	                    "x-overflow=\"reject-publish\" x-dead-letter-exchange=\"\" "
	                    "x-dead-letter-routing-key=\"jobs.dead\"");
	settings.overflow = MQFS_OVERFLOW_DROP_HEAD;
	settings.dead_letter = false;
	/* Lazy means nothing any more, and a newer broker may refuse it. */
	assert_string_equal(work_queue(&settings, 31200),
	                    "x-queue-type=\"classic\" x-max-priority=3 x-message-ttl=1000 "
	                    "x-max-length=7 x-overflow=\"drop-head\"");
}

static void everything_for_a_quorum_queue(void **state)
{
	struct mqfs_settings settings;

	(void)state;
	mqfs_settings_init(&settings);
	settings.overflow = MQFS_OVERFLOW_DEFAULT;
	settings.type = MQFS_QUEUE_QUORUM;
	settings.lazy = true;
	assert_string_equal(work_queue(&settings, 31008), "x-queue-type=\"quorum\"");
	assert_string_equal(work_queue(&settings, 40000), "x-queue-type=\"quorum\" x-delivery-limit=-1");
	settings.dead_letter = true;
	settings.overflow = MQFS_OVERFLOW_REJECT_PUBLISH;
	assert_string_equal(work_queue(&settings, 31008),
	                    "x-queue-type=\"quorum\" x-overflow=\"reject-publish\" x-dead-letter-exchange=\"\" "
	                    "x-dead-letter-routing-key=\"jobs.dead\" x-dead-letter-strategy=\"at-least-once\"");
}

static void helper_queues(void **state)
{
	struct arguments arguments;

	(void)state;
	arguments_dead_queue(&arguments, 31008);
	assert_string_equal(told(&arguments), "");
	arguments_dead_queue(&arguments, 40100);
	assert_string_equal(told(&arguments), "x-queue-type=\"classic\"");
	arguments_delay_queue(&arguments, "jobs", 2000, 31008);
	assert_string_equal(told(&arguments),
	                    "x-queue-type=\"quorum\" x-message-ttl=2000 x-dead-letter-exchange=\"\" "
	                    "x-dead-letter-routing-key=\"jobs\" x-dead-letter-strategy=\"at-least-once\" "
	                    "x-overflow=\"reject-publish\"");
	arguments_delay_queue(&arguments, "jobs", 2000, 40000);
	assert_non_null(strstr(told(&arguments), "x-delivery-limit=-1"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_plain_queue),
	    cmocka_unit_test(everything_for_a_classic_queue),
	    cmocka_unit_test(everything_for_a_quorum_queue),
	    cmocka_unit_test(helper_queues),
	};

	return cmocka_run_group_tests_name("amqp arguments", tests, NULL, NULL);
}
