//! Writing the text that is signed. By hand, so that it reads as the format's description does.

use std::fmt::Write as _;

use super::{FileEntry, Frame, Manifest, Permissions, TAG};

impl Manifest {
    /// The text that is signed: the tag, then the sections in the order of the format's description.
    pub fn to_text(&self) -> String {
        let mut text = String::from(TAG);
        self.write(&mut text).expect("writing to a String cannot fail");
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Self {
            format: _,
            plugin,
            customer,
            target,
            protocol,
            build,
            identity,
            permissions,
            payload,
            files,
        } = self;
        let Permissions { network, read, write } = permissions;

        writeln!(out, "\n[plugin]")?;
        writeln!(out, "name = {}", quote(plugin.name.as_str()))?;
        writeln!(out, "version = {}", quote(&plugin.version.to_string()))?;
        writeln!(out, "sequence = {}", plugin.sequence)?;
        writeln!(out, "description = {}", quote(&plugin.description))?;
        writeln!(out, "required_tier = {}", quote(plugin.required_tier.as_str()))?;
        if let Some(expires) = plugin.expires {
            writeln!(out, "expires = {expires}")?;
        }
        writeln!(out, "\n[customer]")?;
        writeln!(out, "id = {}", quote(customer.id.as_str()))?;
        writeln!(out, "tier = {}", quote(customer.tier.as_str()))?;
        if let Some(digest) = customer.api_key_sha256 {
            writeln!(out, "api_key_sha256 = \"{digest}\"")?;
        }
        writeln!(out, "\n[target]")?;
        writeln!(out, "platform = {}", quote(target.platform.as_str()))?;
        writeln!(out, "triple = {}", quote(&target.triple))?;
        writeln!(out, "\n[protocol]")?;
        writeln!(out, "versions = {:?}", protocol.versions)?;
        writeln!(out, "\n[build]")?;
        writeln!(out, "created = {}", build.created)?;
        if let Some(digest) = build.source_sha256 {
            writeln!(out, "source_sha256 = \"{digest}\"")?;
        }
        writeln!(out, "base_sha256 = \"{}\"", build.base_sha256)?;
        if let Some(toolchain) = &build.toolchain {
            writeln!(out, "toolchain = {}", quote(toolchain))?;
        }
        if let Some(slot) = identity {
            writeln!(out, "\n[identity]\noffset = {}\nsize = {}", slot.offset, slot.size)?;
        }
        writeln!(out, "\n[permissions]")?;
        for (name, values) in [("network", network), ("read", read), ("write", write)] {
            let values: Vec<String> = values.iter().map(|value| quote(value)).collect();
            writeln!(out, "{name} = [{}]", values.join(", "))?;
        }
        writeln!(out, "\n[payload]")?;
        writeln!(out, "size = {}\ntar_size = {}", payload.size, payload.tar_size)?;
        writeln!(out, "tar_sha256 = \"{}\"\nframes = [", payload.tar_sha256)?;
        for Frame { size, sha256 } in &payload.frames {
            writeln!(out, "    {{ size = {size}, sha256 = \"{sha256}\" }},")?;
        }
        writeln!(out, "]")?;
        for FileEntry { path, size, sha256, executable } in files {
            writeln!(out, "\n[[files]]\npath = {}", quote(path.as_str()))?;
            writeln!(out, "size = {size}\nsha256 = \"{sha256}\"\nexecutable = {executable}")?;
        }
        Ok(())
    }
}

/// A text as TOML has it.
pub(crate) fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}
