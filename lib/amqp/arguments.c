/* SPDX-License-Identifier: MIT */
#include "arguments.h"

#include <assert.h>
#include <stdio.h>

/* From here on ... */
#define VERSION_DEFAULT_TYPE 31100   /* a virtual host may have another default type than classic */
#define VERSION_ALWAYS_LAZY 31200    /* x-queue-mode is ignored, and may be refused one day */
#define VERSION_DELIVERY_LIMIT 40000 /* quorum queues drop what was delivered 20 times; -1 turns that off */

static void begin(struct arguments *arguments)
{
	arguments->table = (amqp_table_t){.entries = arguments->entries};
}

static amqp_field_value_t *add(struct arguments *arguments, const char *name, uint8_t kind)
{
	amqp_table_entry_t *entry = &arguments->entries[arguments->table.num_entries++];

	assert(arguments->table.num_entries <= ARGUMENTS_MAX);
	entry->key = amqp_cstring_bytes(name);
	entry->value.kind = kind;
	return &entry->value;
}

static void add_text(struct arguments *arguments, const char *name, const char *text)
{
	add(arguments, name, AMQP_FIELD_KIND_UTF8)->value.bytes = amqp_cstring_bytes(text);
}

static void add_integer(struct arguments *arguments, const char *name, int64_t value)
{
	add(arguments, name, AMQP_FIELD_KIND_I64)->value.i64 = value;
}

static void add_type(struct arguments *arguments, enum mqfs_queue_type type, int version)
{
	if (type == MQFS_QUEUE_QUORUM)
		add_text(arguments, "x-queue-type", "quorum");
	else if (version >= VERSION_DEFAULT_TYPE)
		add_text(arguments, "x-queue-type", "classic");
	if (type == MQFS_QUEUE_QUORUM && version >= VERSION_DELIVERY_LIMIT)
		add_integer(arguments, "x-delivery-limit", -1);
}

static void add_overflow(struct arguments *arguments, enum mqfs_overflow overflow)
{
	if (overflow == MQFS_OVERFLOW_DROP_HEAD)
		add_text(arguments, "x-overflow", "drop-head");
	else if (overflow == MQFS_OVERFLOW_REJECT_PUBLISH)
		add_text(arguments, "x-overflow", "reject-publish");
}

/* Through the default exchange to the queue of that name. */
static void add_dead_letters(struct arguments *arguments, bool at_least_once)
{
	add_text(arguments, "x-dead-letter-exchange", "");
	add_text(arguments, "x-dead-letter-routing-key", arguments->dead);
	if (at_least_once)
		add_text(arguments, "x-dead-letter-strategy", "at-least-once");
}

void arguments_work_queue(struct arguments *arguments, const char *queue, const struct mqfs_settings *settings,
                          int version)
{
	bool classic = settings->type == MQFS_QUEUE_CLASSIC;

	begin(arguments);
	add_type(arguments, settings->type, version);
	if (classic && settings->max_priority > 0)
		add_integer(arguments, "x-max-priority", settings->max_priority);
	if (classic && settings->lazy && version < VERSION_ALWAYS_LAZY)
		add_text(arguments, "x-queue-mode", "lazy");
	if (settings->message_ttl_ms > 0)
		add_integer(arguments, "x-message-ttl", settings->message_ttl_ms);
	if (settings->max_length > 0)
		add_integer(arguments, "x-max-length", settings->max_length);
	add_overflow(arguments, settings->overflow);
	if (settings->dead_letter) {
		mqfs_name_dead_queue(queue, arguments->dead);
		/* The strategy needs both: with drop-head the broker refuses it. */
		add_dead_letters(arguments, !classic && settings->overflow == MQFS_OVERFLOW_REJECT_PUBLISH);
	}
}

void arguments_dead_queue(struct arguments *arguments, int version)
{
	begin(arguments);
	add_type(arguments, MQFS_QUEUE_CLASSIC, version);
}

void arguments_delay_queue(struct arguments *arguments, const char *queue, int64_t level_ms, int version)
{
	begin(arguments);
	add_type(arguments, MQFS_QUEUE_QUORUM, version);
	add_integer(arguments, "x-message-ttl", level_ms);
	snprintf(arguments->dead, sizeof(arguments->dead), "%s", queue);
	add_dead_letters(arguments, true);
	add_overflow(arguments, MQFS_OVERFLOW_REJECT_PUBLISH);
}
