// What a browser calls itself, in words that people know.

const BROWSERS = [["Firefox", /Firefox\/(\d+)/], ["Edge", /Edg\/(\d+)/], ["Chrome", /Chrom(?:e|ium)\/(\d+)/], ["Safari", /Version\/(\d+).*Safari/]] as const;
const SYSTEMS = [["Android", /Android/], ["iOS", /iPhone|iPad/], ["Windows", /Windows/], ["macOS", /Mac OS X/], ["Linux", /Linux/]] as const;

/** `Firefox 140 on Linux`; what is not known stays as it is. */
export function browserName(agent: string): string {
  for (const [name, pattern] of BROWSERS) {
    const version = pattern.exec(agent)?.[1];
    if (version === undefined) continue;
    const system = SYSTEMS.find(([, mark]) => mark.test(agent))?.[0];
    return system === undefined ? `${name} ${version}` : `${name} ${version} on ${system}`;
  }
  return agent === "" ? "unknown" : agent;
}
