// SPDX-License-Identifier: MIT
// Hugging Face's tokenizer.json, read and written. What is not byte-level BPE is refused by its name.
#pragma once

#include <dsv3/base/error.hpp>
#include <dsv3/io/file.hpp>
#include <dsv3/io/json.hpp>
#include <dsv3/text/byte_alphabet.hpp>
#include <dsv3/text/tokenizer_definition.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace dsv3::inline DSV3_ABI {

namespace detail {

inline constexpr std::pair<std::string_view, split_behaviour> split_behaviours[] = {
    {"Isolated", split_behaviour::isolated},
    {"Removed", split_behaviour::removed},
    {"MergedWithPrevious", split_behaviour::merged_with_previous},
    {"MergedWithNext", split_behaviour::merged_with_next},
    {"Contiguous", split_behaviour::contiguous}};

/// Reads the parts of one file; `where` names the file and the part in every sentence.
class tokenizer_file_reader {
 public:
  tokenizer_definition read(const json& file, const std::string& where) {
    json_fields fields{file, where};
    if (fields.text("version", "1.0") != "1.0") fields.refuse("version", file["version"], "\"1.0\"");
    for (const char* key : {"truncation", "padding"})
      if (fields.present(key)) fields.refuse(key, file[key], "null: texts are encoded whole");
    if (fields.present("normalizer")) normalizer(file["normalizer"], where + ": normalizer");
    pre_tokenizer(part(fields, file, "pre_tokenizer", "ByteLevel"), where + ": pre_tokenizer");
    if (!bytes_seen_)
      fields.refuse("pre_tokenizer", file["pre_tokenizer"], "ByteLevel, or a Sequence that ends with it");
    if (fields.present("post_processor")) post_processor(file["post_processor"], where + ": post_processor");
    decoder(part(fields, file, "decoder", "ByteLevel"), where + ": decoder");
    model(part(fields, file, "model", "a BPE model"), where + ": model");
    if (fields.present("added_tokens")) added_tokens(file["added_tokens"], where + ": added_tokens");
    require(fields.unknown());
    if (const status whole = result_.check(); !whole) raise(where + ": " + whole.message());
    return std::move(result_);
  }

 private:
  // Names by value: g++ 13 takes what a function returns for a part of any temporary it was given.
  static const json& part(json_fields& fields, const json& object, const char* key, const char* expected) {
    static const json nothing;
    if (!fields.present(key)) fields.refuse(key, nothing, expected);
    return object[key];
  }

  template <class Visit>
  static void each(const json& array, const std::string& where, Visit&& visit) {
    if (!array.is_array()) raise(where + ": found " + quoted(array) + ", expected an array");
    for (std::size_t i = 0; i < array.size(); ++i) visit(array[i], where + "[" + std::to_string(i) + "]");
  }

  static void normalizer(const json& value, const std::string& where) {
    json_fields fields{value, where};
    const char* expected = "none: text is encoded as it is";
    if (fields.text("type") != "Sequence" || !part(fields, value, "normalizers", expected).empty())
      fields.refuse("type", value["type"], expected);
    require(fields.unknown());
  }

  void pre_tokenizer(const json& value, const std::string& where) {
    json_fields fields{value, where};
    const std::string& type = fields.text("type");
    if (bytes_seen_) fields.refuse("type", value["type"], "nothing after ByteLevel");
    if (type == "Sequence") {
      each(part(fields, value, "pretokenizers", "an array"), where + ".pretokenizers",
           [&](const json& inner, const std::string& at) { pre_tokenizer(inner, at); });
    } else if (type == "ByteLevel") {
      result_.byte_level = {fields.boolean("add_prefix_space"), fields.boolean("use_regex", true),
                            fields.boolean("trim_offsets", true)};
      bytes_seen_ = true;
    } else if (type == "Digits") {
      result_.splits.push_back(digits_rule{fields.boolean("individual_digits")});
    } else if (type == "Split") {
      split_rule split;
      const json& text = part(fields, value, "pattern", "{\"Regex\": ...} or {\"String\": ...}");
      json_fields pattern{text, where + ": pattern"};
      split.regex = pattern.present("Regex");
      split.pattern = pattern.text(split.regex ? "Regex" : "String");
      require(pattern.unknown());
      split.invert = fields.boolean("invert");
      split.behaviour = behaviour(fields, value);
      result_.splits.push_back(split);
    } else {
      fields.refuse("type", value["type"], "Split, Digits, ByteLevel or a Sequence of them");
    }
    require(fields.unknown());
  }

  static split_behaviour behaviour(json_fields& fields, const json& value) {
    const std::string& name = fields.text("behavior");
    std::string names;
    for (const auto& [known, meaning] : split_behaviours) {
      if (name == known) return meaning;
      names += (names.empty() ? "" : ", ") + std::string(known);
    }
    fields.refuse("behavior", value["behavior"], "one of " + names);
  }

  void post_processor(const json& value, const std::string& where) {
    json_fields fields{value, where};
    const std::string& type = fields.text("type");
    if (type == "Sequence") {
      each(part(fields, value, "processors", "an array"), where + ".processors",
           [&](const json& inner, const std::string& at) { post_processor(inner, at); });
    } else if (type == "TemplateProcessing") {
      frame(fields, value, where);
    } else if (type != "ByteLevel") {
      fields.refuse("type", value["type"], "ByteLevel, TemplateProcessing or a Sequence of them");
    }
    // ByteLevel moves offsets, `pair` is about two texts; neither changes the ids of one.
    require(fields.unknown({"add_prefix_space", "trim_offsets", "use_regex", "pair"}));
  }

  /// Puts the template's tokens around what earlier processors have put there.
  void frame(json_fields& fields, const json& value, const std::string& where) {
    std::vector<std::int32_t> before, after;
    bool text_seen = false;
    const json& specials = part(fields, value, "special_tokens", "an object");
    each(part(fields, value, "single", "an array"), where + ".single",
         [&](const json& item, const std::string& at) {
           json_fields piece{item, at};
           if (piece.present("Sequence")) {
             json_fields text = piece.object("Sequence");
             if (text.text("id") != "A" || text_seen) text.refuse("id", item["Sequence"]["id"], "\"A\" once");
             text_seen = true;
           } else {
             const std::string name = piece.object("SpecialToken").text("id");
             const json_fields known{specials, where + ": special_tokens"};
             if (!specials.contains(name)) known.refuse(name, nullptr, "the ids of the template's token");
             json_fields token{specials[name], where + ": special_tokens: " + shortened(name)};
             for (const index_t id : token.integers("ids", {0, INT32_MAX}))
               (text_seen ? after : before).push_back(static_cast<std::int32_t>(id));
           }
           require(piece.unknown());
         });
    if (!text_seen) fields.refuse("single", value["single"], "the text, Sequence A, among its pieces");
    result_.before.insert(result_.before.begin(), before.begin(), before.end());
    result_.after.insert(result_.after.end(), after.begin(), after.end());
  }

  static void decoder(const json& value, const std::string& where) {
    json_fields fields{value, where};
    const std::string& type = fields.text("type");
    if (type == "Sequence") {
      const json& inner = part(fields, value, "decoders", "an array");
      if (!inner.is_array() || inner.size() != 1) fields.refuse("decoders", inner, "one ByteLevel");
      decoder(inner[0], where + ".decoders[0]");
    } else if (type != "ByteLevel") {
      fields.refuse("type", value["type"], "ByteLevel");
    }
    require(fields.unknown({"add_prefix_space", "trim_offsets", "use_regex"}));
  }

  void model(const json& value, const std::string& where) {
    json_fields fields{value, where};
    if (fields.text("type", "BPE") != "BPE") fields.refuse("type", value["type"], "\"BPE\"");
    if (fields.number("dropout", 0) != 0) fields.refuse("dropout", value["dropout"], "null or 0");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!fields.text(key, "").empty()) fields.refuse(key, value[key], "null or \"\"");
    if (fields.boolean("byte_fallback", false))
      fields.refuse("byte_fallback", value["byte_fallback"], "false: bytes are tokens");
    fields.boolean("fuse_unk", false);  // nothing is unknown
    result_.unknown_token = fields.text("unk_token", "");
    result_.ignore_merges = fields.boolean("ignore_merges", false);
    const json& vocab = part(fields, value, "vocab", "an object of tokens and ids");
    vocabulary(vocab, where + ": vocab");
    each(part(fields, value, "merges", "an array of pairs"), where + ".merges",
         [&](const json& pair, const std::string& at) { merge(pair, vocab, at); });
    require(fields.unknown());
  }

  void vocabulary(const json& vocab, const std::string& where) {
    if (!vocab.is_object())
      raise(where + ": found " + quoted(vocab) + ", expected an object of tokens and ids");
    result_.vocabulary.assign(vocab.size(), {});
    std::vector<bool> taken(vocab.size());
    for (const auto& [spelling, id] : vocab.items()) {
      const bool known = id.is_number_unsigned() && id.get<std::uint64_t>() < vocab.size();
      if (!known || taken[id.get<std::size_t>()])
        raise(where + ": token \"" + shortened(spelling) + "\" has id " + quoted(id) +
              ", expected each of 0 to " + std::to_string(vocab.size() - 1) + " once");
      taken[id.get<std::size_t>()] = true;
      vocabulary_token& token = result_.vocabulary[id.get<std::size_t>()];
      if (std::optional<std::string> bytes = byte_alphabet::read(spelling))
        token.bytes = *std::move(bytes);
      else
        token = {spelling, true};
    }
  }

  void merge(const json& value, const json& vocab, const std::string& where) {
    std::string left, right;
    if (value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string()) {
      left = value[0].get<std::string>(), right = value[1].get<std::string>();
    } else if (value.is_string()) {
      const std::string& line = value.get_ref<const std::string&>();
      if (line.starts_with("#version")) return;
      const std::size_t space = line.find(' ');
      if (space == line.npos || line.find(' ', space + 1) != line.npos)
        raise(where + ": found " + quoted(value) + ", expected two tokens and one space");
      left = line.substr(0, space), right = line.substr(space + 1);
    } else {
      raise(where + ": found " + quoted(value) + ", expected two tokens");
    }
    const auto id_of = [&](const std::string& token) {
      const auto found = vocab.find(token);
      if (found == vocab.end())
        raise(where + ": token \"" + shortened(token) + "\" is not in the vocabulary");
      return found->get<std::int32_t>();
    };
    id_of(left + right);
    result_.merges.emplace_back(id_of(left), id_of(right));
  }

  void added_tokens(const json& value, const std::string& where) {
    each(value, where, [&](const json& item, const std::string& at) {
      json_fields fields{item, at};
      added_token token;
      token.id = static_cast<std::int32_t>(fields.integer("id", {0, INT32_MAX - 1}));
      token.content = fields.text("content");
      token.special = fields.boolean("special");
      token.normalized = fields.boolean("normalized");
      token.lstrip = fields.boolean("lstrip");
      token.rstrip = fields.boolean("rstrip");
      token.single_word = fields.boolean("single_word");
      require(fields.unknown());
      result_.added_tokens.push_back(token);
    });
  }

  tokenizer_definition result_;
  bool bytes_seen_ = false;
};

/// Parts of the file as JSON; the vocabulary and the merges, which are long, are written by hand.
class tokenizer_file_writer {
 public:
  using ordered = nlohmann::ordered_json;

  static std::string write(const tokenizer_definition& definition) {
    std::string text = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n";
    member(text, "added_tokens", added_tokens(definition));
    member(text, "normalizer", nullptr);
    member(text, "pre_tokenizer", pre_tokenizer(definition));
    member(text, "post_processor", post_processor(definition));
    member(text, "decoder", byte_level({true, true, true}));
    const ordered unknown = definition.unknown_token.empty() ? ordered() : ordered(definition.unknown_token);
    text += "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": " +
            unknown.dump() +
            ",\n    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
            "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": " +
            (definition.ignore_merges ? "true" : "false") + ",\n    \"vocab\": {";
    for (std::size_t id = 0; id < definition.vocabulary.size(); ++id)
      text +=
          (id == 0 ? "\n      " : ",\n      ") + spelled(definition, id).dump() + ": " + std::to_string(id);
    text += "\n    },\n    \"merges\": [";
    for (std::size_t i = 0; i < definition.merges.size(); ++i) {
      const auto [left, right] = definition.merges[i];
      const ordered pair = spelled(definition, static_cast<std::size_t>(left)).get<std::string>() + " " +
                           spelled(definition, static_cast<std::size_t>(right)).get<std::string>();
      text += (i == 0 ? "\n      " : ",\n      ") + pair.dump();
    }
    return text + "\n    ]\n  }\n}\n";
  }

 private:
  static void member(std::string& text, const std::string& name, const ordered& value) {
    std::string lines = value.dump(2);
    for (std::size_t at = 0; (at = lines.find('\n', at)) != lines.npos; at += 3) lines.insert(at + 1, "  ");
    text += "  \"" + name + "\": " + lines + ",\n";
  }

  /// As the file spells a token of the vocabulary.
  static ordered spelled(const tokenizer_definition& definition, std::size_t id) {
    const vocabulary_token& token = definition.vocabulary[id];
    return token.literal ? token.bytes : byte_alphabet::spelled(token.bytes);
  }

  static ordered byte_level(const byte_level_rule& rule) {
    return {{"type", "ByteLevel"},
            {"add_prefix_space", rule.add_prefix_space},
            {"trim_offsets", rule.trim_offsets},
            {"use_regex", rule.use_regex}};
  }

  static ordered added_tokens(const tokenizer_definition& definition) {
    ordered list = ordered::array();
    for (const added_token& token : definition.added_tokens)
      list.push_back({{"id", token.id},
                      {"content", token.content},
                      {"single_word", token.single_word},
                      {"lstrip", token.lstrip},
                      {"rstrip", token.rstrip},
                      {"normalized", token.normalized},
                      {"special", token.special}});
    return list;
  }

  static ordered pre_tokenizer(const tokenizer_definition& definition) {
    ordered list = ordered::array();
    for (const auto& rule : definition.splits) {
      if (const auto* digits = std::get_if<digits_rule>(&rule)) {
        list.push_back({{"type", "Digits"}, {"individual_digits", digits->individual}});
        continue;
      }
      const auto& split = std::get<split_rule>(rule);
      std::string_view behaviour;
      for (const auto& [name, meaning] : split_behaviours)
        if (meaning == split.behaviour) behaviour = name;
      list.push_back({{"type", "Split"},
                      {"pattern", {{split.regex ? "Regex" : "String", split.pattern}}},
                      {"behavior", behaviour},
                      {"invert", split.invert}});
    }
    if (list.empty()) return byte_level(definition.byte_level);
    list.push_back(byte_level(definition.byte_level));
    return {{"type", "Sequence"}, {"pretokenizers", list}};
  }

  static ordered post_processor(const tokenizer_definition& definition) {
    if (definition.before.empty() && definition.after.empty()) return byte_level(definition.byte_level);
    ordered specials = ordered::object();
    const auto token = [&](std::int32_t id, int text) -> ordered {
      std::string name;
      if (static_cast<std::size_t>(id) < definition.vocabulary.size())
        name = spelled(definition, static_cast<std::size_t>(id)).get<std::string>();
      for (const added_token& added : definition.added_tokens)
        if (added.id == id) name = added.content;
      specials[name] = {{"id", name}, {"ids", {id}}, {"tokens", {name}}};
      return {{"SpecialToken", {{"id", name}, {"type_id", text}}}};
    };
    const auto framed = [&](ordered& pieces, const char* name, int text) {
      for (const std::int32_t id : definition.before) pieces.push_back(token(id, text));
      pieces.push_back({{"Sequence", {{"id", name}, {"type_id", text}}}});
      for (const std::int32_t id : definition.after) pieces.push_back(token(id, text));
    };
    ordered single = ordered::array(), pair = ordered::array();
    framed(single, "A", 0);
    framed(pair, "A", 0);
    framed(pair, "B", 1);
    return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", specials}};
  }
};

}  // namespace detail

/// What a parsed tokenizer.json says; `where` is its name in errors:
/// `tokenizer.json: pre_tokenizer.pretokenizers[1]: type is "Metaspace", expected Split, Digits, ...`.
inline tokenizer_definition parse_tokenizer(const json& file, const std::string& where) {
  return detail::tokenizer_file_reader{}.read(file, where);
}

inline tokenizer_definition read_tokenizer(const std::string& path) {
  return parse_tokenizer(read_json(path), path);
}

/// The text of a tokenizer.json that Hugging Face's `tokenizers` encodes with as we do.
inline std::string tokenizer_json(const tokenizer_definition& definition) {
  require(definition.check());
  return detail::tokenizer_file_writer::write(definition);
}

/// Written atomically.
inline void write_tokenizer(const std::string& path, const tokenizer_definition& definition) {
  write_file(path, tokenizer_json(definition));
}

}  // namespace dsv3::inline DSV3_ABI
