/* SPDX-License-Identifier: MIT */
#include "kind.h"

#include <stdlib.h>
#include <string.h>

/*
 * "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'q' in vhost '/': received none but current is the
 * value '60000' of type 'signedint'", or "… received 'mqfs-asks' but current is 'quorum'".
 */

#define NAME 0
#define VALUE 1

static amqp_table_entry_t question(const char *name)
{
	return (amqp_table_entry_t){
	    .key = amqp_cstring_bytes(name),
	    .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes("mqfs-asks")},
	};
}

void kind_probe_init(struct kind_probe *probe)
{
	probe->arguments[0] = question("x-queue-type");
	probe->table = (amqp_table_t){.num_entries = 1, .entries = probe->arguments};
}

void kind_probe_init_overflow(struct kind_probe *probe)
{
	kind_probe_init(probe);
	probe->arguments[probe->table.num_entries++] = question("x-overflow");
}

/* What follows the last such phrase; NULL: there is none. */
static const char *after(const char *text, const char *phrase)
{
	const char *found = NULL, *at = text;

	while ((at = strstr(at, phrase)))
		found = at += strlen(phrase);
	return found;
}

/* What stands before the next such phrase. false: it isn't there, or too long. */
static bool until(const char *text, const char *phrase, char *buffer, size_t bytes)
{
	const char *end = text ? strstr(text, phrase) : NULL;

	if (!end || (size_t)(end - text) >= bytes)
		return false;
	memcpy(buffer, text, (size_t)(end - text));
	buffer[end - text] = '\0';
	return true;
}

/* The same argument with the value that the queue has. */
static bool add(struct kind_probe *probe, const char *current)
{
	int at = probe->table.num_entries;
	char *value = probe->texts[at][VALUE], type[32];
	amqp_table_entry_t *entry = &probe->arguments[at];

	if (!until(after(current, "the value '"), "' of type '", value, sizeof(probe->texts[at][VALUE])) ||
	    !until(after(current, "' of type '"), "'", type, sizeof(type)))
		return false;
	entry->key = amqp_cstring_bytes(probe->texts[at][NAME]);
	if (strcmp(type, "longstr") == 0) {
		entry->value.kind = AMQP_FIELD_KIND_UTF8;
		entry->value.value.bytes = amqp_cstring_bytes(value);
	} else if (strcmp(type, "bool") == 0) {
		entry->value.kind = AMQP_FIELD_KIND_BOOLEAN;
		entry->value.value.boolean = strcmp(value, "true") == 0;
	} else {
		entry->value.kind = AMQP_FIELD_KIND_I64;
		entry->value.value.i64 = strtoll(value, NULL, 10);
	}
	probe->table.num_entries++;
	return true;
}

/* Only classic queues have these. */
static bool is_of_classic(const char *name)
{
	return strcmp(name, "durable") == 0 || strcmp(name, "auto_delete") == 0 || strcmp(name, "exclusive") == 0 ||
	       strcmp(name, "x-max-priority") == 0;
}

/* The argument that differs, its name noted down where add looks for it. NULL: there is none, or no room for one more.
 */
static const char *argument(struct kind_probe *probe, const char *refusal, const char **ret_current)
{
	static const char prefix[] = "inequivalent arg '";
	const char *begin = strstr(refusal, prefix);
	int at = probe->table.num_entries;
	char *name;

	*ret_current = after(refusal, " but current is ");
	if (!begin || !*ret_current || at == KIND_ARGUMENTS_MAX)
		return NULL;
	name = probe->texts[at][NAME];
	return until(begin + strlen(prefix), "'", name, sizeof(probe->texts[at][NAME])) ? name : NULL;
}

bool kind_probe_read(struct kind_probe *probe, const char *refusal, enum kind *ret_kind)
{
	const char *current, *name = argument(probe, refusal, &current);

	*ret_kind = KIND_UNKNOWN;
	if (!name)
		return true;
	if (is_of_classic(name))
		*ret_kind = KIND_PLAIN;
	else if (strcmp(name, "x-queue-type") == 0)
		*ret_kind = strstr(current, "'quorum'") ? KIND_COUNTS : KIND_PLAIN;
	else
		return !add(probe, current);
	return true;
}

/* Brokers compare a maximum length before they do x-overflow. */
static bool has_max_length(const struct kind_probe *probe)
{
	bool has = false;

	for (int i = 0; i < probe->table.num_entries; i++)
		has |= strncmp(probe->arguments[i].key.bytes, "x-max-length", strlen("x-max-length")) == 0;
	return has;
}

bool kind_probe_read_overflow(struct kind_probe *probe, const char *refusal, bool *ret_refuses)
{
	const char *current, *name = argument(probe, refusal, &current);

	*ret_refuses = true;
	if (!name || strcmp(name, "x-queue-type") == 0)
		return true;
	if (strcmp(name, "x-overflow") != 0)
		return !add(probe, current);
	*ret_refuses = strstr(current, "reject-publish") && has_max_length(probe);
	return true;
}
